'use strict';

// A server that ends its process, or its worker, without a stop, when clients have sent a hundred
// times. The argument says how.

const { parentPort, workerData } = require('node:worker_threads');
const { createServer } = require('..');

const how = process.argv[2];
const error = new Error('nobody catches this');
let count = 0;

function end(socket) {
  switch (how) {
    case 'return':
      server.unref();
      break;
    case 'return-while-paused':
      socket.pause();
      server.unref();
      break;
    case 'exit':
      process.exit(7);
      break;
    case 'throw':
      setImmediate(() => {
        throw error;
      });
      break;
    case 'throw-in-listener':
      throw error;
    case 'reject':
      Promise.reject(error);
      break;
    case 'exit-while-detached':
    case 'while-detached':
      receive(socket);
      break;
    case 'busy':
      parentPort.postMessage('served');
      for (;;);
    case 'sigterm':
    case 'sigint':
      process.kill(process.pid, how.toUpperCase());
      break;
    default:
      parentPort.postMessage('served');
  }
}

async function receive(socket) {
  const detached = await socket.detach();
  const received = detached.receive(); // the client's last, then in vain
  await received;
  detached.receive();
  parentPort?.postMessage('served');
  if (how === 'exit-while-detached') setTimeout(() => process.exit(7), 20);
}

const options = { host: '127.0.0.1', port: workerData?.port ?? 0, reusePort: true };
const server = createServer(options, (socket) => {
  socket.on('data', (data) => {
    socket.write(data);
    count += 1;
    if (count === (how === 'serve' ? 1 : 100)) end(socket);
  });
});

server.on('listening', () => {
  const { port } = server.address();
  if (parentPort === null) console.log(port);
  else parentPort.postMessage(port);
});
