// Broadcasts every line of its input to every socket, with the package `ws`. Prints its port.
const { WebSocketServer } = require("ws");
const { createInterface } = require("node:readline");

const server = new WebSocketServer({ host: "127.0.0.1", port: 0 }, () => console.log(server.address().port));
createInterface({ input: process.stdin })
  .on("line", (line) => { for (const client of server.clients) client.send(line); })
  .on("close", () => process.exit());
