'use strict';

const assert = require('node:assert/strict');
const { AsyncLocalStorage } = require('node:async_hooks');
const { randomBytes } = require('node:crypto');
const { pipeline } = require('node:stream/promises');
const { check, read, ask, echo, until, once, closed } = require('./helpers');
const { objectCount } = require('..');

check('a megabyte comes back as it went', async ({ serve, connect }) => {
  const server = await serve({}, echo);
  const client = await connect(server);
  const data = randomBytes(1 << 20);
  client.end(data);
  assert.deepEqual(await read(client), data);
});

check('200 clients at the same time', async ({ serve, connect }) => {
  const server = await serve({}, echo);
  await Promise.all(Array.from({ length: 200 }, async (_, i) => {
    const client = await connect(server);
    for (let round = 0; round < 3; round += 1) {
      const text = `${round} from ${i}`;
      assert.equal(await ask(client, text), text);
    }
    client.end();
  }));
  await until(() => objectCount() === 1, 'the sockets are gone');
});

check('a small piece stays as it was', async ({ serve, connect }) => {
  const kept = [];
  const server = await serve({}, (socket) => {
    socket.on('data', (data) => {
      kept.push(data);
      socket.write(data);
    });
  });
  const client = await connect(server);
  for (let i = 0; i < 3000; i += 1) await ask(client, `piece ${i}`);
  assert.deepEqual(kept.map(String), kept.map((_, i) => `piece ${i}`));
});

check('it knows both addresses, in an event and later', async ({ serve, connect }) => {
  let socket;
  const server = await serve({}, (accepted) => {
    socket = accepted;
    socket.write('.');
  });
  const client = await connect(server);
  await read(client, 1);
  assert.equal(socket.remoteAddress, '127.0.0.1');
  assert.equal(socket.remoteFamily, 'IPv4');
  assert.equal(socket.remotePort, client.localPort);
  assert.equal(socket.localPort, server.address().port);
  assert.deepEqual(socket.address(), server.address());
});

check('allowHalfOpen lets it answer after the end', async ({ serve, connect }) => {
  const server = await serve({ allowHalfOpen: true }, (socket) => {
    let received = '';
    socket.on('data', (data) => {
      received += data;
    });
    socket.on('end', () => setTimeout(() => socket.end(`got ${received}`), 5));
  });
  const client = await connect(server, { allowHalfOpen: true });
  client.end('all');
  assert.equal((await read(client)).toString(), 'got all');
});

check('end() half-closes', async ({ serve, connect }) => {
  let received = '';
  let socket;
  const server = await serve({}, (accepted) => {
    socket = accepted;
    socket.on('data', (data) => {
      received += data;
    });
    socket.end('bye');
    assert.equal(socket.readyState, 'readOnly');
  });
  const client = await connect(server, { allowHalfOpen: true });
  assert.equal((await read(client)).toString(), 'bye');
  client.end('still here');
  const [hadError] = await once(socket, 'close');
  assert.deepEqual([received, hadError, socket.closeReason], ['still here', false, 'peer']);
  assert.equal(socket.write('too late'), false);
});

check('a reset is an error with a code', async ({ serve, connect }) => {
  const sockets = [];
  const server = await serve({}, (socket) => {
    echo(socket);
    sockets.push(socket);
  });
  const client = await connect(server);
  await ask(client, 'x');
  const [socket] = sockets;
  const failed = once(socket, 'error');
  const ended = new Promise((resolve) => {
    socket.once('close', resolve);
  });
  client.resetAndDestroy();
  const [error] = await failed;
  assert.equal(error.code, 'NS_ERR_RESET');
  assert.equal(await ended, true);
  assert.equal(socket.closeReason, 'reset');
});

check('a reset without a listener for it harms nobody', async ({ serve, connect }) => {
  const server = await serve({}, echo);
  const client = await connect(server);
  await ask(client, 'x');
  client.resetAndDestroy();
  await until(() => objectCount() === 1, 'the socket is gone');
  assert.equal(await ask(await connect(server), 'on'), 'on');
});

check('back-pressure against a client that does not read', async ({ serve, connect }) => {
  const total = 64 << 20;
  const piece = Buffer.alloc(65536, 'x');
  let left = total;
  let most = 0;
  const server = await serve({}, (socket) => {
    const fill = () => {
      while (left > 0) {
        left -= piece.length;
        const goOn = socket.write(piece);
        most = Math.max(most, socket.writableLength);
        if (!goOn) return;
      }
      socket.end();
    };
    socket.on('drain', fill);
    fill();
  });
  const client = await connect(server);
  await until(() => left < total, 'it has begun');
  const before = left;
  await new Promise(setImmediate);
  assert.equal(left, before);
  assert.equal((await read(client)).length, total);
  assert.ok(most <= 4 * 65536, `${most} bytes were queued`);
});

check('an echo without back-pressure of its own holds little', async ({ serve, connect }) => {
  let most = 0;
  const server = await serve({}, (socket) => {
    socket.on('data', (data) => {
      socket.write(data);
      most = Math.max(most, socket.writableLength);
    });
  });
  const client = await connect(server);
  const data = randomBytes(32 << 20);
  client.end(data);
  await until(() => most > 0 && client.writableLength > 0, 'the client waits');
  assert.deepEqual(await read(client), data);
  assert.ok(most < 1 << 20, `${most} bytes were queued`);
});

check('a write beyond sendLimit throws, and nothing of it leaves', async ({ serve, connect }) => {
  const options = { sendLimit: 1 << 20, highWaterMark: 1 << 20 };
  const server = await serve(options, (socket) => {
    assert.throws(() => socket.write(Buffer.alloc(2 << 20)), { code: 'NS_ERR_BUFFER_FULL' });
    socket.end('the rest');
  });
  assert.equal((await read(await connect(server))).toString(), 'the rest');
});

check('pause() holds the data back, resume() gives it', async ({ serve, connect }) => {
  const received = [];
  const server = await serve({}, (socket) => {
    socket.on('data', (data) => received.push(String(data)));
    socket.write('.');
  });
  const client = await connect(server);
  await read(client, 1);
  const [socket] = server.connections;
  socket.pause(); // outside of its events
  assert.ok(socket.isPaused());
  client.write('held');
  const other = await connect(server);
  await read(other, 1);
  assert.deepEqual(received, []);
  const data = once(socket, 'data');
  client.write(' back');
  socket.resume();
  await data;
  await until(() => received.join('') === 'held back', 'all has come');
});

check('data waits for its first listener', async ({ serve, connect }) => {
  const server = await serve({}, async (socket) => {
    await new Promise((resolve) => {
      setTimeout(resolve, 20);
    });
    echo(socket);
  });
  const client = await connect(server);
  assert.equal(await ask(client, 'early'), 'early');
});

check('sockets begin paused with pauseOnConnect', async ({ serve, connect }) => {
  const server = await serve({ pauseOnConnect: true }, (socket) => {
    echo(socket);
    assert.ok(socket.isPaused());
    setTimeout(() => socket.resume(), 20);
  });
  assert.equal(await ask(await connect(server), 'later'), 'later');
});

check('promises and nextTick run before the next event', async ({ serve, connect }) => {
  const order = [];
  const server = await serve({}, (socket) => {
    socket.on('data', async () => {
      order.push('data');
      process.nextTick(() => order.push('tick'));
      await null;
      order.push('promise');
      socket.write('.');
    });
  });
  const clients = await Promise.all([connect(server), connect(server)]);
  for (const client of clients) client.write('x');
  for (const client of clients) await read(client, 1);
  assert.deepEqual(order, ['data', 'tick', 'promise', 'data', 'tick', 'promise']);
});

check('an AsyncLocalStorage of listen() holds in the listeners', async ({ serve, connect }) => {
  const storage = new AsyncLocalStorage();
  const server = await storage.run('stored', () => serve({}, (socket) => {
    socket.on('data', () => socket.end(storage.getStore()));
  }));
  assert.equal(await ask(await connect(server), 'x', 6), 'stored');
});

check('setTimeout() counts from the last byte', async ({ serve, connect }) => {
  let lastAt;
  let idleMs;
  const server = await serve({}, (socket) => {
    lastAt = performance.now();
    socket.on('data', () => {
      lastAt = performance.now();
    });
    socket.setTimeout(150, () => {
      idleMs = performance.now() - lastAt;
      socket.end('idle');
    });
  });
  const client = await connect(server);
  for (let i = 0; i < 5; i += 1) {
    client.write('.');
    await new Promise((resolve) => {
      setTimeout(resolve, 40);
    });
  }
  assert.equal((await read(client)).toString(), 'idle');
  assert.ok(idleMs >= 149, `${idleMs} ms`);
});

check('setTimeout(0) stops it', async ({ serve, connect }) => {
  const server = await serve({}, (socket) => {
    echo(socket);
    socket.setTimeout(250, () => socket.end('idle'));
    setImmediate(() => socket.setTimeout(0));
  });
  const client = await connect(server);
  await new Promise((resolve) => {
    setTimeout(resolve, 400);
  });
  assert.equal(await ask(client, 'still'), 'still');
});

check('destroy() resets where something is lost', async ({ serve, connect }) => {
  let reason;
  const server = await serve({}, (socket) => {
    socket.on('data', () => {
      socket.write(Buffer.alloc(8 << 20));
      socket.destroy();
    });
    socket.on('close', () => {
      reason = socket.closeReason;
    });
  });
  const client = await connect(server);
  client.resume().write('x');
  await once(client, 'close'); // libuv takes a reset behind a short read for the end
  assert.equal(reason, 'abort');
  assert.ok(client.bytesRead < 8 << 20);
});

check('destroy() ends in order where all has left', async ({ serve, connect }) => {
  const server = await serve({}, (socket) => {
    socket.write('a');
    socket.write('b');
    socket.destroy();
  });
  assert.equal((await read(await connect(server))).toString(), 'ab');
});

check('reject() refuses with what was written', async ({ serve, connect }) => {
  const server = await serve({}, (socket) => {
    socket.write('no');
    socket.reject();
  });
  assert.equal((await read(await connect(server))).toString(), 'no');
  await until(() => server.stats().closed.rejected === 1, 'it is counted');
});

check('setEncoding() gives whole characters', async ({ serve, connect }) => {
  const texts = [];
  const server = await serve({}, (socket) => {
    socket.setEncoding('utf8');
    socket.on('data', (text) => {
      texts.push(text);
      socket.write('.');
    });
    socket.on('end', () => socket.end());
  });
  const client = await connect(server);
  const euro = Buffer.from('a€');
  client.write(euro.subarray(0, 2));
  await read(client, 1);
  client.end(euro.subarray(2));
  await read(client);
  assert.deepEqual(texts, ['a', '€']);
});

check('a stream stands in a pipeline', async ({ serve, connect }) => {
  const server = await serve({ allowHalfOpen: true }, (socket) => {
    const stream = socket.stream();
    pipeline(stream, stream).catch(() => {});
  });
  const client = await connect(server);
  const data = randomBytes(4 << 20);
  client.end(data);
  assert.deepEqual(await read(client), data);
});

check('a stream is an async iterable', async ({ serve, connect }) => {
  const server = await serve({ allowHalfOpen: true }, async (socket) => {
    let size = 0;
    const chunks = socket.stream().iterator({ destroyOnReturn: false });
    for await (const chunk of chunks) size += chunk.length;
    socket.end(String(size));
  });
  const client = await connect(server, { allowHalfOpen: true });
  client.end('x'.repeat(100_000));
  assert.equal((await read(client)).toString(), '100000');
});

check('a write callback tells how it went', async ({ serve, connect }) => {
  const results = [];
  const server = await serve({}, (socket) => {
    socket.resume();
    socket.write('x', (error) => results.push(error));
    socket.on('close', () => socket.write('y', (error) => results.push(error.code)));
  });
  const client = await connect(server);
  await read(client, 1);
  client.end();
  await until(() => results.length === 2, 'both callbacks');
  assert.deepEqual(results, [undefined, 'NS_ERR_CLOSED']);
  await closed(server);
});
