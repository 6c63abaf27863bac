// A client by Node's tls: node_client.js PORT CA VERSION [ALPN|-] [CERT KEY].
// Prints a JSON line for each of two connections, the second with the first one's session.
'use strict';
const fs = require('fs');
const tls = require('tls');

const [port, ca, version, alpn, cert, key] = process.argv.slice(2);
const big = Buffer.alloc(1 << 20, 'y');

function connection(session) {
  return new Promise((resolve, reject) => {
    let ticket;
    let got = Buffer.alloc(0);
    const socket = tls.connect({
      host: '127.0.0.1',
      port: Number(port),
      servername: 'localhost',
      ca: fs.readFileSync(ca),
      minVersion: 'TLSv' + version,
      maxVersion: 'TLSv' + version,
      ALPNProtocols: alpn && alpn !== '-' ? alpn.split(',') : undefined,
      cert: cert && fs.readFileSync(cert),
      key: key && fs.readFileSync(key),
      session,
    });
    socket.on('session', (data) => { ticket = data; });
    socket.on('error', reject);
    socket.on('secureConnect', () => {
      socket.write('info\nbig ' + big.length + '\n');
    });
    socket.on('data', (data) => {
      got = Buffer.concat([got, data]);
      const line = got.indexOf('\n');
      if (line >= 0 && got.length === line + 1 + big.length) {
        socket.write('quit\n');
      }
    });
    socket.on('end', () => {
      const line = got.indexOf('\n');
      resolve({
        info: JSON.parse(got.subarray(0, line)),
        big: got.length - line - 1,
        authorized: socket.authorized,
        protocol: socket.getProtocol(),
        alpn: socket.alpnProtocol,
        reused: socket.isSessionReused(),
        ticket,
      });
    });
  });
}

function print({ ticket, ...result }) {
  console.log(JSON.stringify(result));
  return ticket;
}

connection()
  .then((first) => connection(print(first)))
  .then(print)
  .catch((error) => {
    console.log(JSON.stringify({ error: error.code || error.message }));
    process.exit(1);
  });
