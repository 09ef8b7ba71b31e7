"""The name that pytest's plugin had in earlier installations, whose metadata still has it."""

import sys

import pytest_wampkit

sys.modules[__name__] = pytest_wampkit
