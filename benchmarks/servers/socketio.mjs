// Socket.IO on Node: the same procedure, and rooms for topics. Run as `node socketio.mjs PORT MODULE`, where MODULE
// is the file that `require.resolve("socket.io")` names: an ES module looks for packages beside itself only.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const [port, module] = process.argv.slice(2);
const { Server } = createRequire(import.meta.url)(module);
const http = createServer();

new Server(http, { transports: ["websocket"], serveClient: false }).on("connection", (socket) => {
  socket.on("add", (x, y, answer) => answer(x + y));
  socket.on("sub", (topic, answer) => {
    socket.join(topic);
    answer(true);
  });
  socket.on("pub", (topic, event) => socket.to(topic).emit("ev", event));
});

http.listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 }, () => console.log("ready"));
