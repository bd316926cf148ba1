// Broadcasts every line of its input to every socket, with the package `socket.io`. Prints its port.
const { createServer } = require("node:http");
const { createInterface } = require("node:readline");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http, { transports: ["websocket"] });
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
createInterface({ input: process.stdin })
  .on("line", (line) => io.emit("message", line))
  .on("close", () => process.exit());
