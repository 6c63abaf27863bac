'use strict';

// The peer of the Node binding: an echo server on node:net. node_net.js SERVICE, "0" or "HOST:PORT"

const net = require('node:net');

const [host, port] = `127.0.0.1:${process.argv.at(-1)}`.split(':').slice(-2);

const server = net.createServer({ noDelay: true }, (socket) => {
  socket.on('data', (data) => {
    if (!socket.write(data)) socket.pause();
  });
  socket.on('drain', () => socket.resume());
  socket.on('error', () => {}); // a client that goes away
});

server.listen(Number(port), host, () => {
  const { address, port: number } = server.address();
  console.log(`listening on ${address}:${number}`);
});
