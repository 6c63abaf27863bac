'use strict';

const assert = require('node:assert/strict');
const { check, read, ask, echo, until, once } = require('./helpers');
const { createServer, objectCount } = require('..');

// Collects what goes to 'uncaughtException' in the time of a test, instead of node:test.
function uncaught(own) {
  const caught = [];
  process.setUncaughtExceptionCaptureCallback((error) => caught.push(error));
  own({ stop: () => process.setUncaughtExceptionCaptureCallback(null) });
  return caught;
}

check('onException gets the very object, with the socket still open', async (tools) => {
  const { serve, connect } = tools;
  const thrown = [];
  const got = [];
  const server = await serve({
    onException(error, socket) {
      got.push(error);
      socket.write('sorry');
    },
  }, (socket) => {
    socket.on('data', (data) => {
      const error = data.toString() === 'odd' ? undefined : new Error(`about ${data}`);
      thrown.push(error);
      throw error;
    });
  });
  for (const text of ['that', 'odd']) {
    const client = await connect(server);
    client.write(text);
    assert.equal((await read(client)).toString(), 'sorry');
  }
  assert.deepEqual(got, thrown);
  assert.equal(got[0], thrown[0]);
  assert.equal(server.stats().handlerErrors, 2);
  await until(() => objectCount() === 1, 'nothing is kept');
});

check('every kind of listener may throw', async ({ serve, connect, own }) => {
  const inVain = uncaught(own);
  const got = [];
  const options = { onException: (error) => got.push(error.message), allowHalfOpen: true };
  const fail = (text) => () => {
    throw new Error(text);
  };
  let now;
  const server = await serve(options, (socket) => now(socket));
  const cases = {
    connection: fail('connection'),
    data: (socket) => socket.on('data', fail('data')),
    end: (socket) => socket.resume().on('end', fail('end')),
    drain(socket) {
      socket.on('drain', fail('drain'));
      socket.write(Buffer.alloc(8 << 20));
    },
    timeout: (socket) => socket.resume().setTimeout(10, fail('timeout')),
    wake(socket) {
      socket.on('wake', fail('wake'));
      server.wake(socket.id);
    },
  };
  for (const [name, listener] of Object.entries(cases)) {
    now = listener;
    const client = await connect(server);
    client.resume();
    if (name === 'end') client.end('x');
    else if (name === 'data') client.write('x');
    await once(client, 'close');
    await until(() => got.length > 0, name);
    assert.deepEqual(got.splice(0), [name]);
  }
  assert.deepEqual(inVain, []);
});

check('a close listener and a nextTick go to uncaughtException', async (tools) => {
  const { serve, connect, own } = tools;
  const caught = uncaught(own);
  const error = new Error('in vain');
  const got = [];
  const server = await serve({ onException: (each) => got.push(each) }, (socket) => {
    socket.on('data', (data) => {
      if (data.toString() === 'tick') {
        process.nextTick(() => {
          throw error;
        });
      } else {
        socket.end();
      }
      socket.write('.');
    });
    socket.on('close', () => {
      throw error;
    });
  });
  const ticking = await connect(server);
  assert.equal(await ask(ticking, 'tick', 1), '.');
  await until(() => caught.length === 1, 'the tick');
  (await connect(server)).end('close');
  await until(() => caught.length === 2, 'the close');
  assert.ok(caught.every((each) => each === error));
  assert.deepEqual(got, []);
});

check('without onException it goes to uncaughtException, and the connection closes', async (tools) => {
  const { serve, connect, own } = tools;
  const caught = uncaught(own);
  const error = new Error('nobody listens');
  const server = await serve({}, (socket) => {
    echo(socket);
    socket.on('data', (data) => {
      if (data.toString() === 'throw') throw error;
    });
  });
  const other = await connect(server);
  const client = await connect(server);
  client.write('throw');
  await read(client);
  await until(() => caught.length > 0, 'the exception');
  assert.deepEqual(caught, [error]);
  assert.equal(caught[0], error);
  assert.equal(await ask(other, 'on'), 'on');
});

check('a listener that has detached its socket may throw', async ({ serve, connect }) => {
  const error = new Error('after the detach');
  const got = [];
  let detached;
  const server = await serve({ onException: (...args) => got.push(args) }, (socket) => {
    socket.on('data', () => {
      detached = socket.detach();
      throw error;
    });
  });
  const client = await connect(server);
  client.write('x');
  await until(() => got.length > 0, 'the exception');
  assert.equal(got[0][0], error);
  assert.equal(got[0][1], undefined);
  await (await detached).send('still here');
  assert.equal((await read(client, 10)).toString(), 'still here');
  await (await detached).close();
});

check('what onException throws goes to uncaughtException', async ({ serve, connect, own }) => {
  const caught = uncaught(own);
  const worse = new Error('worse');
  const server = await serve({
    onException() {
      throw worse;
    },
  }, () => {
    throw new Error('bad');
  });
  const client = await connect(server);
  await read(client).catch(() => {});
  await until(() => caught.length > 0, 'the exception');
  assert.deepEqual(caught, [worse]);
});

check('a timer, a task and a watch may throw', async ({ serve }) => {
  const got = [];
  const server = await serve({ onException: (error, socket) => got.push([error.message, socket]) });
  for (const name of ['timer', 'task']) {
    const fail = () => {
      throw new Error(name);
    };
    if (name === 'timer') server.timer(0, 0, fail);
    else server.post(fail);
    await until(() => got.length > 0, name);
    assert.deepEqual(got.splice(0), [[name, undefined]]);
  }
  await until(() => objectCount() === 1, 'nothing is kept');
});

check('a thousand exceptions are released', async ({ serve, connect }) => {
  const seen = [];
  const server = await serve({ onException: (error) => seen.push(new WeakRef(error)) }, (socket) => {
    socket.on('data', () => {
      throw new Error('again');
    });
  });
  for (let i = 0; i < 1000; i += 1) {
    const client = await connect(server);
    client.write('x');
    await read(client);
  }
  assert.equal(seen.length, 1000);
  await until(() => objectCount() === 1, 'nothing is kept');
});

check('the callback of an end that came too late gets an error', async ({ serve, connect }) => {
  const codes = [];
  const late = (socket) => socket.end((error) => codes.push(error.code));
  let socket;
  const server = await serve({}, (each) => {
    socket = each.resume();
    socket.end('x', () => late(socket));
  });
  const client = await connect(server);
  assert.equal((await read(client)).toString(), 'x');
  client.end();
  await until(() => socket.closeReason !== null, 'the close');
  late(socket);
  await until(() => codes.length === 2, 'both callbacks');
  assert.deepEqual(codes, ['NS_ERR_CLOSED', 'NS_ERR_CLOSED']);
});

check('a callback that is no function is refused', async ({ serve }) => {
  const invalid = { code: 'NS_ERR_INVALID' };
  const server = await serve({}, () => {});
  assert.throws(() => server.timer(1, 0), invalid);
  assert.throws(() => server.post(5), invalid);
  assert.throws(() => server.watch(0, 1, null), invalid);
  for (const name of ['onException', 'onShutdown']) {
    assert.throws(() => createServer({ [name]: 4 }), invalid);
  }
  for (const options of [5, null, 'x']) assert.throws(() => createServer(options), invalid);
  assert.equal(objectCount(), 1);
});
