'use strict';

// echo: sends back what it receives, until SIGINT or SIGTERM.
//
//   node echo.js [-n] [-t THREADS] [--cert FILE --key FILE] [--shutdown-port P] [SERVICE]
//
//   -n                 as in the other examples; a server in Node is always non-blocking
//   -t THREADS         1: a server has one loop, that of its thread of Node
//   --cert FILE        TLS with this certificate chain (PEM), and
//   --key FILE         its private key (PEM)
//   --shutdown-port P  a connection to this port stops the server
//   SERVICE            where to listen (5000); 0 takes any free port; also unix:/path, fd:3, systemd

const { parseArgs } = require('node:util');
const { createServer } = require('..');

const usage =
  'usage: echo.js [-n] [-t THREADS] [--cert FILE --key FILE] [--shutdown-port P] [SERVICE]';

function parse() {
  const { values, positionals } = parseArgs({
    options: {
      'non-blocking': { type: 'boolean', short: 'n' },
      threads: { type: 'string', short: 't', default: '1' },
      cert: { type: 'string' },
      key: { type: 'string' },
      'shutdown-port': { type: 'string' },
    },
    allowPositionals: true,
  });
  if (values.threads !== '1') throw new Error('a server in Node has one thread');
  if (positionals.length > 1) throw new Error('more than one service');
  if ((values.cert === undefined) !== (values.key === undefined)) {
    throw new Error('--cert and --key go together');
  }
  return { values, service: positionals[0] ?? '5000' };
}

function parseOrExit() {
  try {
    return parse();
  } catch (error) {
    console.error(`echo: ${error.message}\n${usage}`);
    return process.exit(2);
  }
}

const { values, service } = parseOrExit();
const tls =
  values.cert === undefined ? undefined : { certFile: values.cert, keyFile: values.key };

const server = createServer({ service, tls, shutdownPort: values['shutdown-port'] }, (socket) => {
  socket.on('data', (data) => socket.write(data)); // above highWaterMark no more is read
});

server.on('listening', () => console.log(`listening on ${server.addressText()}`));
server.on('failure', (error) => {
  // A client that goes away, or speaks no TLS, is no event: any number may.
  if (error.code !== 'NS_ERR_HANDSHAKE') console.error(`echo: ${error.message}`);
});
server.on('error', (error) => {
  console.error(`echo: ${error.message}`);
  process.exitCode = 1;
});
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => server.close());
