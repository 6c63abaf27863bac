'use strict';

const assert = require('node:assert/strict');
const { X509Certificate, randomBytes } = require('node:crypto');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const tls = require('node:tls');
const { check, read, ask, echo, once, DATA } = require('./helpers');
const { Tls, createServer } = require('..');

const file = (name) => path.join(DATA, `${name}.pem`);
const pem = (name) => fs.readFileSync(file(name), 'utf8');
const der = (name) => new X509Certificate(pem(name)).raw;
const OWN = { certFile: file('server'), keyFile: file('server-key') };

async function tlsConnect(own, server, options = {}) {
  const client = tls.connect({
    port: server.address().port, host: '127.0.0.1', servername: 'localhost', ca: pem('ca'), ...options,
  });
  own({ stop: () => client.destroy() });
  await once(client, 'secureConnect');
  client.on('error', () => {});
  return client;
}

check('certificates come as files, as PEM and as DER', async ({ serve, own }) => {
  const key = Buffer.from(pem('server-key').replace(/-----[^-]+-----|\s/g, ''), 'base64');
  for (const options of [
    OWN,
    { cert: pem('server'), key: pem('server-key') },
    { cert: [der('server')], key },
    { certificates: [{ ...OWN, servername: 'localhost' }] },
  ]) {
    const server = await serve({ tls: options }, echo);
    const client = await tlsConnect(own, server);
    assert.equal(await ask(client, 'secret'), 'secret');
  }
});

check('socket.tls says what was agreed', async ({ serve, own }) => {
  let agreed;
  const options = {
    ...OWN, caFile: file('ca'), rejectUnauthorized: false, ALPNProtocols: ['first', 'second'],
  };
  const server = await serve({ tls: options }, (socket) => {
    agreed = socket.tls;
    assert.equal(socket.encrypted, true);
    assert.equal(socket.alpnProtocol, agreed.alpnProtocol ?? false);
    socket.end('.');
  });
  await read(await tlsConnect(own, server));
  assert.deepEqual(
    [agreed.version, agreed.alpnProtocol, agreed.servername, agreed.peerCertificate, agreed.resumed],
    ['TLSv1.3', null, 'localhost', null, false]);
  assert.match(agreed.cipher, /^TLS_/);
  await read(await tlsConnect(own, server, {
    ALPNProtocols: ['second'], cert: pem('client'), key: pem('client-key'),
  }));
  assert.equal(agreed.alpnProtocol, 'second');
  assert.deepEqual(agreed.peerCertificate, der('client'));
  assert.match(agreed.peerSubject, /CN=/);
});

check('a handshake that fails is a failure of the server', async ({ serve, connect }) => {
  const server = await serve({ tls: OWN }, echo);
  const failed = once(server, 'failure');
  const client = await connect(server);
  client.write('this is no TLS at all');
  const [error] = await failed;
  assert.equal(error.code, 'NS_ERR_HANDSHAKE');
  assert.match(error.message, /handshake/);
});

check('certificates can be changed while it serves', async ({ serve, own }) => {
  const server = await serve({ tls: OWN }, echo);
  const serial = async () => (await tlsConnect(own, server, { rejectUnauthorized: false }))
    .getPeerCertificate().serialNumber;
  const before = await serial();
  server.reloadTls({ certFile: file('second'), keyFile: file('second-key') });
  assert.notEqual(await serial(), before);
  assert.throws(() => server.reloadTls({}), { code: 'NS_ERR_CERTIFICATE' });
});

check('another object with the same keys opens a ticket', async ({ serve, own }) => {
  const [one, other] = [randomBytes(80), randomBytes(80)];
  const last = new Tls({ ...OWN, ticketKeys: one });
  const first = await serve({ tls: { ...OWN, ticketKeys: one } }, echo);
  const second = await serve({ tls: last }, echo);
  const isResumed = async (session) => {
    const client = await tlsConnect(own, second, { session });
    assert.equal(await ask(client, 'x'), 'x');
    return client.isSessionReused();
  };
  const client = await tlsConnect(own, first);
  const ticket = once(client, 'session');
  assert.equal(await ask(client, 'x'), 'x');
  const [session] = await ticket;
  assert.equal(await isResumed(session), true);
  last.setTicketKeys(Buffer.concat([other, one]));
  assert.equal(await isResumed(session), true);
  last.setTicketKeys(other);
  assert.equal(await isResumed(session), false);
  for (const length of [0, 79, 80 * 17]) {
    const expected = { code: 'NS_ERR_INVALID', message: `ticket keys are 1 to 16 times 80 bytes, not ${length}` };
    assert.throws(() => last.setTicketKeys(Buffer.alloc(length)), expected);
    assert.throws(() => new Tls({ ...OWN, ticketKeys: Buffer.alloc(length) }), expected);
  }
  assert.throws(() => last.setTicketKeys('text'), { code: 'NS_ERR_INVALID' });
});

check('starttls() goes over to TLS', async ({ serve, connect, own }) => {
  const context = new Tls(OWN);
  const order = [];
  const server = await serve({}, (socket) => {
    socket.once('data', async (data) => {
      assert.equal(String(data), 'STARTTLS\n');
      socket.write('go\n');
      await socket.starttls(context);
      echo(socket);
      socket.on('secure', () => order.push('secure', socket.tls.version));
      socket.on('data', () => order.push('data'));
    });
  });
  const plain = await connect(server);
  assert.equal(await ask(plain, 'STARTTLS\n', 3), 'go\n');
  const client = tls.connect({ socket: plain, servername: 'localhost', ca: pem('ca') });
  own({ stop: () => client.destroy() });
  await once(client, 'secureConnect');
  assert.equal(await ask(client, 'secret'), 'secret');
  assert.deepEqual(order, ['secure', 'TLSv1.3', 'data']);
});

check('each service has TLS of its own', async ({ serve, own }) => {
  const server = await serve({ services: [{ host: '127.0.0.1', tls: OWN }] }, echo);
  const client = net.connect(server.address().port, '127.0.0.1');
  own({ stop: () => client.destroy() });
  assert.equal(await ask(client, 'plain'), 'plain');
  const secure = await tlsConnect(own, { address: () => server.address(1) });
  assert.equal(await ask(secure, 'secret'), 'secret');
});

check('what is wrong with TLS is an error that says it', async () => {
  assert.throws(() => new Tls({ cret: '' }), /unknown TLS option "cret"/);
  assert.throws(() => new Tls({ certFile: '/none.pem', keyFile: '/none.pem' }),
    { code: 'NS_ERR_CERTIFICATE', message: /none\.pem/ });
  assert.throws(() => new Tls({ cert: pem('server'), key: pem('second-key') }),
    { code: 'NS_ERR_CERTIFICATE' });
  assert.throws(() => new Tls({ ...OWN, rejectUnauthorized: true }), /needs ca/);
  assert.throws(() => new Tls({ ...OWN, minVersion: 'SSLv3' }), { code: 'NS_ERR_INVALID' });
  const [error] = await once(createServer({ port: 0, tls: {} }), 'error');
  assert.equal(error.code, 'NS_ERR_CERTIFICATE');
});
