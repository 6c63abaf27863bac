'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const net = require('node:net');
const { check, read, ask, echo, until, once, closed } = require('./helpers');
const { objectCount, READ, Status } = require('..');

const OPEN_DEVICE = '/dev/random'; // can be polled, and is readable

check('sends by id', async ({ serve, connect }) => {
  const server = await serve({}, echo);
  const client = await connect(server);
  await ask(client, 'x');
  const [id] = server.ids();
  assert.equal(typeof id, 'bigint');
  server.send(id, 'by id');
  server.send(Number(id), Buffer.from(', again'));
  assert.equal((await read(client, 12)).toString(), 'by id, again');
  assert.equal(server.queued(id), 0);
  server.shutdown(id, 1);
  assert.equal((await read(client)).length, 0);
  assert.throws(() => server.send(0, 'x'), { code: 'NS_ERR_CLOSED' });
});

check('broadcasts', async ({ serve, connect }) => {
  const server = await serve({}, echo);
  const clients = await Promise.all(Array.from({ length: 10 }, () => connect(server)));
  for (const client of clients) await ask(client, 'x');
  assert.equal(server.broadcast('to all'), 10);
  for (const client of clients) assert.equal((await read(client, 6)).toString(), 'to all');
  const [first] = server.ids();
  const statuses = server.broadcastEach('to one', [first, 0]);
  assert.deepEqual([...statuses], [Status.OK, Status.CLOSED]);
  assert.equal(server.broadcast('to one', new BigUint64Array([first])), 1);
});

check('closes and aborts by id', async ({ serve, connect }) => {
  const server = await serve({}, echo);
  for (const [how, reason] of [['closeConnection', 'handler'], ['abortConnection', 'abort']]) {
    const client = await connect(server);
    await ask(client, 'x');
    const [socket] = server.connections;
    const ended = once(socket, 'close');
    server[how](socket.id);
    client.resume();
    await ended;
    assert.equal(socket.closeReason, reason);
    assert.throws(() => server[how](socket.id), { code: 'NS_ERR_CLOSED' });
  }
});

check('wakes a socket', async ({ serve, connect }) => {
  const server = await serve({}, (socket) => {
    socket.on('wake', () => socket.end('awake'));
    socket.write('.');
  });
  const client = await connect(server);
  await read(client, 1);
  server.wake(server.ids()[0]);
  assert.equal((await read(client)).toString(), 'awake');
});

check('timers fire once or again, and can be cancelled', async ({ serve }) => {
  const server = await serve({});
  const began = performance.now();
  await new Promise((resolve) => {
    server.timer(50, 0, resolve);
  });
  assert.ok(performance.now() - began >= 49);
  let count = 0;
  await new Promise((resolve) => {
    const timer = server.timer(1, 1, () => {
      count += 1;
      if (count < 3) return;
      assert.ok(timer.cancel());
      assert.ok(!timer.cancel());
      resolve();
    });
  });
  assert.throws(() => server.timer(-1, 0, () => {}), { code: 'NS_ERR_INVALID' });
  await until(() => objectCount() === 1, 'the timers are dropped');
});

check('tasks run in their order', async ({ serve }) => {
  const server = await serve({});
  const order = [];
  await new Promise((resolve) => {
    for (let i = 0; i < 5; i += 1) server.post(() => order.push(i));
    server.post(resolve);
  });
  assert.deepEqual(order, [0, 1, 2, 3, 4]);
});

check('watches a descriptor of the program', async ({ serve, own }) => {
  const server = await serve({});
  const fd = fs.openSync(OPEN_DEVICE, 'r');
  own({ stop: () => fs.closeSync(fd) });
  let watch;
  const events = await new Promise((resolve) => {
    watch = server.watch(fd, READ, resolve);
  });
  assert.equal(events, READ);
  watch.change(READ);
  assert.throws(() => watch.change(7), { code: 'NS_ERR_INVALID' });
  assert.throws(() => server.watch(fd, READ, () => {}), { code: 'NS_ERR_BUSY' });
  assert.ok(watch.cancel());
  await until(() => objectCount() === 1, 'the watch is dropped');
});

check('connects to another server', async ({ serve, own }) => {
  const other = net.createServer((socket) => socket.pipe(socket)).listen(0, '127.0.0.1');
  own({ stop: () => other.close() });
  await once(other, 'listening');
  const server = await serve({});
  const socket = server.connect(`127.0.0.1:${other.address().port}`);
  assert.equal(socket.connecting, true);
  socket.write('early, ');
  await once(socket, 'connect');
  socket.end('hello');
  let text = '';
  socket.on('data', (data) => {
    text += data;
  });
  await once(socket, 'close');
  assert.equal(text, 'early, hello');
  assert.equal(socket.service, -1);
});

check('a connect that fails is an error of its socket', async ({ serve }) => {
  const server = await serve({});
  const taken = net.createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const { port } = taken.address();
  taken.close();
  await once(taken, 'close');
  const errors = [];
  let socket;
  try {
    socket = server.connect(`127.0.0.1:${port}`);
    socket.on('error', (error) => errors.push(error));
    await new Promise((resolve) => {
      socket.on('close', resolve);
    });
  } catch (error) {
    errors.push(error);
  }
  assert.equal(errors[0].code, 'NS_ERR_CONNECT');
  assert.throws(() => server.connect('no service'), { code: 'NS_ERR_INVALID' });
  assert.equal(objectCount(), 1);
});

check('adopts a socket of the program', async ({ serve, connect }) => {
  const giver = await serve({}, (socket) => socket.write('.'));
  const server = await serve({}, echo);
  const client = await connect(giver);
  await read(client, 1);
  const detached = await giver.connections[0].detach();
  server.adopt(detached.releaseFd());
  assert.equal(await ask(client, 'adopted'), 'adopted');
  assert.equal(server.stats().adopted, 1);
  assert.throws(() => server.adopt(999), { code: 'NS_ERR_INVALID' });
  assert.equal(objectCount(), 3);
});

check('calls on a server that has stopped fail', async ({ serve }) => {
  const server = await serve({});
  await closed(server);
  assert.throws(() => server.post(() => {}), { code: 'NS_ERR_STATE' });
  assert.throws(() => server.timer(1, 0, () => {}), { code: 'NS_ERR_STATE' });
  assert.throws(() => server.broadcast('x'), { code: 'NS_ERR_CLOSED' });
  assert.equal(objectCount(), 0);
});
