'use strict';

// The program keeps nothing of what it gives to the server, and the collector runs all the time.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const v8 = require('node:v8');
const vm = require('node:vm');
const { check, read, ask, once } = require('./helpers');
const { createServer, objectCount, READ } = require('..');

v8.setFlagsFromString('--expose-gc');
const collect = vm.runInNewContext('gc');

// A turn of Node's loop, so that the frames are gone that still refer to an object.
async function collectAll() {
  for (let i = 0; i < 3; i += 1) {
    await new Promise(setImmediate);
    collect();
  }
}

check('timers, tasks and watches stay', async ({ serve, own }) => {
  const server = await serve({});
  const fd = fs.openSync('/dev/random', 'r');
  own({ stop: () => fs.closeSync(fd) });
  const called = [];
  const all = new Promise((resolve) => {
    const call = (name) => {
      called.push(name);
      if (new Set(called).size === 4) resolve();
    };
    server.timer(30, 0, () => call('once'));
    server.timer(10, 10, () => call('again'));
    server.post(() => call('task'));
    const watch = server.watch(fd, READ, () => {
      watch.cancel();
      call('watch');
    });
  });
  collect();
  await collectAll();
  await all;
});

check('servers and sockets stay', async ({ connect }) => {
  const port = await new Promise((resolve) => {
    createServer({ host: '127.0.0.1', port: 0 }, (socket) => {
      socket.on('data', (data) => {
        collect();
        if (String(data) === 'stop') socket.server.close();
        else socket.write(data);
      });
    }).on('listening', function listening() {
      resolve(this.address().port);
    });
  });
  await collectAll();
  const client = await connect({ address: () => ({ port }) });
  for (let i = 0; i < 10; i += 1) {
    assert.equal(await ask(client, `line ${i}`), `line ${i}`);
    await collectAll();
  }
  const ended = once(client, 'close');
  client.resume().write('stop');
  await ended;
});

check('a detached socket, an exception and TLS stay', async ({ serve, connect }) => {
  const messages = [];
  const server = await serve({ onException: (error) => messages.push(error.message) }, (socket) => {
    socket.on('data', async () => {
      const detached = await socket.detach();
      collect();
      await detached.send('detached');
      collect();
      server.attach(detached);
      socket.removeAllListeners('data');
      socket.on('data', () => {
        throw new Error('kept');
      });
    });
  });
  const client = await connect(server);
  assert.equal(await ask(client, 'x', 8), 'detached');
  await collectAll();
  client.write('y');
  assert.equal((await read(client)).length, 0);
  assert.deepEqual(messages, ['kept']);
});

check('what has ended goes', async ({ serve, connect }) => {
  const seen = [];
  const server = await serve({}, (socket) => {
    seen.push(new WeakRef(socket));
    socket.end('.');
    socket.resume();
  });
  for (let i = 0; i < 20; i += 1) {
    const client = await connect(server);
    await read(client);
    client.end();
  }
  while (objectCount() > 1) await new Promise(setImmediate);
  await collectAll();
  assert.ok(seen.filter((each) => each.deref() !== undefined).length <= 1);
});
