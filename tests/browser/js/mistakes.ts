// Mistakes that the declarations must show: an error in each line that says so, and in no other.
import { connect, sign } from "wampkit";

const client = connect("/ws");
connect(5); // wrong
connect("/ws", { prefix: { calc: "http://example.com/calc#" } }); // wrong
connect("/ws", { backoff: 100 }); // wrong
connect("/ws", { secret: 7 }); // wrong
connect("/ws", { WebSocket: Date }); // wrong
client.call(7); // wrong
client.call({ timeout: 5 }); // wrong
client.call({ uri: "a", timeout: "5 s" }); // wrong
const text: string = await client.call<number>("calc:add", 2, 3); // wrong
client.publish("a"); // wrong
client.publish("a", 1, { exclude: client.sessionId }); // wrong
client.publish("a", 1, { excludeme: true }); // wrong
client.publish("a", 1, { timeout: 5 }); // wrong
client.publish("a", 1).then(); // wrong
client.subscribe("a", (event, uri: number) => event); // wrong
client.subscribe<number>("a").stop(1); // wrong
for (const event of client.subscribe("a")) console.log(event); // wrong
for await (const event of client.subscribe<number>("a")) event.trim(); // wrong
client.on("event", () => {}); // wrong
client.state = "open"; // wrong
if (client.state === "opened") client.close(); // wrong
client.error.message; // wrong
client.permissions.rpc; // wrong
client.subscribe("a", () => {}).then(); // wrong
sign("challenge"); // wrong
console.log(text);
