// A plain script has the client in the global `wampkit`, with the same declarations.
const page: wampkit.Client = wampkit.connect("/ws");
page.call<number>("calc:add", 2, 3).catch((error) => error instanceof wampkit.CallError && error.uri);
