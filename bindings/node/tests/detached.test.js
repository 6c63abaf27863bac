'use strict';

const assert = require('node:assert/strict');
const { randomBytes } = require('node:crypto');
const net = require('node:net');
const path = require('node:path');
const tls = require('node:tls');
const fs = require('node:fs');
const { check, read, ask, echo, until, once, DATA } = require('./helpers');
const { objectCount } = require('..');

// A server that detaches each connection at its first data.
async function detaching(serve, own, options = {}) {
  const server = await serve(options, (socket) => {
    socket.once('data', async () => server.emit('detached', await socket.detach()));
  });
  return server;
}

async function detachOne(server, client) {
  client.write('x');
  const [detached] = await once(server, 'detached');
  return detached;
}

check('its owner receives and sends, and attaches it again', async ({ serve, connect, own }) => {
  const server = await detaching(serve, own);
  const client = await connect(server);
  const detached = await detachOne(server, client);
  const { id } = detached.socket;
  assert.equal(detached.socket.write('nobody'), false);
  await detached.send('for you');
  assert.equal((await read(client, 7)).toString(), 'for you');
  const received = detached.receive();
  client.write('thanks');
  assert.equal(String(await received), 'thanks');
  const socket = server.attach(detached);
  echo(socket);
  assert.notEqual(socket.id, id);
  assert.equal(await ask(client, 'as before'), 'as before');
  const closed = once(socket, 'close');
  client.end();
  await closed;
});

check('it may be attached in the same event', async ({ serve, connect }) => {
  const server = await serve({}, (socket) => {
    socket.once('data', async () => {
      const detached = await socket.detach();
      server.attach(detached);
      assert.ok(socket.write('again'));
      echo(socket);
    });
  });
  const client = await connect(server);
  assert.equal(await ask(client, 'x', 5), 'again');
  assert.equal(await ask(client, 'on'), 'on');
});

check('it may be detached outside of its events', async ({ serve, connect }) => {
  const server = await serve({}, (socket) => socket.write('.'));
  const client = await connect(server);
  await read(client, 1);
  const detached = await server.connections[0].detach();
  assert.equal(server.connections.length, 0);
  await detached.send('hello');
  assert.equal((await read(client, 5)).toString(), 'hello');
  await detached.close();
  assert.equal((await read(client)).length, 0);
  assert.equal(objectCount(), 1);
});

check('megabytes go both ways', async ({ serve, connect, own }) => {
  const server = await detaching(serve, own);
  const client = await connect(server);
  const detached = await detachOne(server, client);
  const data = randomBytes(4 << 20);
  const sent = detached.send(data).then(() => detached.end());
  assert.deepEqual(await read(client), data);
  await sent;
  await detached.close();
});

check('the end of the peer is null', async ({ serve, connect, own }) => {
  const server = await detaching(serve, own, { allowHalfOpen: true });
  const client = await connect(server, { allowHalfOpen: true });
  const detached = await detachOne(server, client);
  client.end();
  assert.equal(await detached.receive(), null);
  await detached.close();
  await assert.rejects(detached.receive(), { code: 'NS_ERR_STATE' });
});

check('a call may have a bound', async ({ serve, connect, own }) => {
  const server = await detaching(serve, own);
  const detached = await detachOne(server, await connect(server));
  detached.timeout = 300;
  const began = performance.now();
  await assert.rejects(detached.receive(), { code: 'NS_ERR_TIMEOUT' });
  assert.ok(performance.now() - began >= 299);
  await detached.close();
});

check('more calls wait than libuv has threads', async ({ serve, connect, own }) => {
  const server = await detaching(serve, own);
  const pairs = [];
  for (let i = 0; i < 10; i += 1) {
    const client = await connect(server);
    pairs.push([client, await detachOne(server, client)]);
  }
  const received = pairs.map(([, detached]) => detached.receive());
  for (const [i, [client]] of pairs.entries()) client.write(`to ${i}`);
  assert.deepEqual((await Promise.all(received)).map(String), pairs.map((_, i) => `to ${i}`));
  await Promise.all(pairs.map(([, detached]) => detached.close()));
});

check('the descriptor of a plain connection can be taken', async ({ serve, connect, own }) => {
  const server = await detaching(serve, own);
  const client = await connect(server);
  const detached = await detachOne(server, client);
  const socket = new net.Socket({ fd: detached.releaseFd() });
  own({ stop: () => socket.destroy() });
  socket.end('from node:net');
  assert.equal((await read(client)).toString(), 'from node:net');
  assert.equal(objectCount(), 1);
  assert.throws(() => server.attach(detached), { code: 'NS_ERR_STATE' });
});

check('a TLS session goes along, another server may take it', async ({ serve, own }) => {
  const file = (name) => path.join(DATA, `${name}.pem`);
  const options = { certFile: file('server'), keyFile: file('server-key') };
  const server = await detaching(serve, own, { tls: options });
  const other = await serve({}, echo);
  const client = tls.connect({
    port: server.address().port, servername: 'localhost', ca: fs.readFileSync(file('ca')),
  });
  own({ stop: () => client.destroy() });
  await once(client, 'secureConnect');
  const detached = await detachOne(server, client);
  assert.throws(() => detached.releaseFd(), { code: 'NS_ERR_UNSUPPORTED' });
  await detached.send('still secret');
  assert.equal((await read(client, 12)).toString(), 'still secret');
  echo(other.attach(detached));
  assert.equal(await ask(client, 'and there'), 'and there');
  assert.equal(other.stats().attached, 1);
});

check('a detach that fails says why', async ({ serve, connect }) => {
  const server = await serve({}, echo);
  const client = await connect(server);
  await ask(client, 'x');
  const [socket] = server.connections;
  client.destroy();
  await until(() => socket.closeReason !== null, 'the close');
  await assert.rejects(socket.detach(), { code: 'NS_ERR_CLOSED' });
});
