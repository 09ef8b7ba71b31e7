"""The developer's page: what an app serves and how it fares."""
