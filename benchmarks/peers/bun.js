// Broadcasts every line of its input to every socket, with Bun's own server (uWebSockets). Prints its port.
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("a WebSocket is expected", { status: 400 })),
  websocket: { open: (socket) => socket.subscribe("all"), message() {} },
});
console.log(server.port);
for await (const line of console) server.publish("all", line);
process.exit();
