'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { check, read, ask, echo, once, closed } = require('./helpers');
const { createServer, objectCount, hasFeature, version } = require('..');

check('it echoes, and says where', async ({ serve, connect }) => {
  const server = await serve({}, echo);
  const { address, family, port } = server.address();
  assert.deepEqual([address, family], ['127.0.0.1', 'IPv4']);
  assert.equal(server.addressText(), `127.0.0.1:${port}`);
  const client = await connect(server);
  assert.equal(await ask(client, 'hello'), 'hello');
});

check('a port without a host is that of both families, as in node:net', async ({ serve }) => {
  const server = await serve({ port: 0 }, echo);
  for (const host of ['127.0.0.1', '::1']) {
    const client = net.connect(server.address().port, host);
    await once(client, 'connect');
    assert.equal(await ask(client, host), host);
    client.destroy();
  }
});

check('listen() takes what that of node:net takes', async ({ own }) => {
  for (const args of [[0], [0, '127.0.0.1'], [{ port: 0, host: '127.0.0.1' }], []]) {
    const server = createServer(echo);
    own({ stop: () => closed(server) });
    await new Promise((resolve) => {
      server.listen(...args, resolve);
    });
    assert.ok(server.address().port > 0);
    assert.throws(() => server.listen(0), { code: 'NS_ERR_STATE' });
  }
});

check('it serves on a unix socket', async ({ serve, connect }) => {
  const file = path.join(os.tmpdir(), `netserver-node-${process.pid}.socket`);
  const server = await serve({ path: file }, (socket) => {
    const { pid } = socket.peerCredentials();
    socket.end(String(pid));
  });
  assert.equal(server.address(), file);
  assert.equal((await read(await connect(server))).toString(), String(process.pid));
  await closed(server);
  assert.ok(!fs.existsSync(file));
});

check('it serves on several services', async ({ serve }) => {
  const server = await serve({ services: [{ host: '127.0.0.1' }] }, (socket) => {
    socket.end(`by ${socket.service}`);
  });
  for (const service of [0, 1]) {
    const client = net.connect(server.address(service).port, '127.0.0.1');
    assert.equal((await read(client)).toString(), `by ${service}`);
    client.destroy();
  }
});

check('a port in use, and a bad service, are errors with a sentence', async ({ serve }) => {
  const first = await serve({}, echo);
  const second = createServer({ host: '127.0.0.1', port: first.address().port });
  const [error] = await once(second, 'error');
  assert.equal(error.code, 'NS_ERR_LISTEN');
  assert.equal(error.status, -1017);
  assert.equal(error.errno, -os.constants.errno.EADDRINUSE);
  assert.match(error.message, /in use/);
  const [bad] = await once(createServer({ service: 'no such service' }), 'error');
  assert.ok(['NS_ERR_INVALID', 'NS_ERR_ADDRESS'].includes(bad.code), bad.code);
  assert.throws(() => createServer({ idleTimout: 1 }), /unknown option "idleTimout"/);
});

check('what is no service is an error with a sentence', async ({ own }) => {
  for (const where of [
    { service: '' }, { service: null }, { service: '0\0x' }, { service: {} }, { port: '' }, { port: null },
    { host: '127.0.0.1\0' }, { path: '' }, { path: 5 }, { path: '/a\0b' }, { fd: '3\0' },
    { port: 0, shutdownPort: '0\0x' }, { port: 0, services: [null] }, { port: 0, services: [{ service: '' }] },
    { port: 0, tls: null }, { port: 0, tls: { certFile: 'a\0', keyFile: 'b' } },
    { port: 0, tls: { certificates: [5] } }, { port: 0, tls: { ALPNProtocols: 'h2' } },
    { port: 0, tls: { ALPNProtocols: ['h2\0'] } }, { port: 0, tls: { caFile: 5 } },
  ]) {
    const server = createServer(where);
    own({ stop: () => server.destroy() });
    const [error] = await once(server, 'error');
    assert.equal(error.code, 'NS_ERR_INVALID', JSON.stringify(where));
    assert.match(error.message, / /);
  }
  assert.throws(() => createServer({ services: 5 }), { code: 'NS_ERR_INVALID', message: /services/ });
});

check('before listen() and after close there is nothing to ask', async ({ serve }) => {
  const server = await serve({}, echo);
  assert.throws(() => server.attach(5), { code: 'NS_ERR_INVALID', message: /no detached socket/ });
  assert.throws(() => server.connect('0\0x'), { code: 'NS_ERR_INVALID', message: /service/ });
  await closed(server);
  for (const each of [server, createServer()]) {
    assert.throws(() => each.stats(), { code: 'NS_ERR_STATE' });
    assert.throws(() => each.report(), { code: 'NS_ERR_STATE' });
  }
});

check('a setting out of its bounds is an error that names it', async () => {
  for (const [name, value] of [['backlog', 0], ['keepAlive', 2 ** 33], ['noDelay', 'yes']]) {
    const [error] = await once(createServer({ port: 0, [name]: value }), 'error');
    assert.equal(error.code, 'NS_ERR_INVALID');
    const spelled = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    assert.match(error.message, new RegExp(`${name}|${spelled}`));
  }
});

check('a server that could not listen may try again', async ({ serve, own }) => {
  const first = await serve({}, echo);
  const second = createServer(echo);
  own({ stop: () => closed(second) });
  second.listen(first.address().port, '127.0.0.1');
  await once(second, 'error');
  second.listen(0, '127.0.0.1');
  await once(second, 'listening');
  assert.equal(objectCount(), 2);
});

check('close() ends connections in order, then reports', async ({ serve, connect }) => {
  const server = await serve({}, (socket) => socket.write('x'.repeat(1 << 20)));
  const client = await connect(server);
  await once(client, 'readable');
  const stopped = new Promise((resolve) => {
    server.close(resolve);
  });
  assert.equal(server.listening, false);
  assert.equal((await read(client)).length, 1 << 20);
  client.end();
  await stopped;
  assert.equal(server.address(), null);
  const error = await new Promise((resolve) => {
    server.close(resolve);
  });
  assert.equal(error.code, 'NS_ERR_STATE');
});

check('destroy() resets connections, in a listener too', async ({ serve, connect }) => {
  const server = await serve({ drainTimeout: 60_000 }, (socket) => {
    socket.write(Buffer.alloc(8 << 20));
    socket.on('data', () => server.destroy());
  });
  const client = await connect(server);
  const ended = once(client, 'error');
  client.write('now');
  client.resume();
  await Promise.race([ended, once(client, 'end')]);
  await closed(server);
});

check('a server can be used again after its end', async ({ serve, own }) => {
  const server = await serve({}, echo);
  await closed(server);
  server.listen(0, '127.0.0.1');
  own({ stop: () => closed(server) });
  await once(server, 'listening');
});

check('a close listener may ask for the end, and listen again', async ({ serve }) => {
  const server = await serve({}, echo);
  const states = [];
  server.once('close', () => {
    states.push(server.stats().state);
    server.listen(0, '127.0.0.1');
  });
  const again = once(server, 'listening');
  const ends = [1, 2].map(() => new Promise((resolve) => {
    server.close(resolve);
  }));
  assert.deepEqual(await Promise.all(ends), [undefined, undefined]);
  await again;
  assert.deepEqual(states, ['stopped']);
  assert.equal(server.stats().state, 'running');
});

check('a server that quiesces serves on and accepts no more', async ({ serve }) => {
  const server = await serve({}, echo);
  const { port } = server.address();
  const client = net.connect(port, '127.0.0.1');
  await once(server, 'connection');
  server.quiesce();
  client.write('still here');
  assert.equal(String((await once(client, 'data'))[0]), 'still here');
  assert.equal(server.stats().state, 'quiescing');
  const [error] = await once(net.connect(port, '127.0.0.1'), 'error');
  assert.equal(error.code, 'ECONNREFUSED');
  client.end();
  const unused = createServer();
  assert.throws(() => unused.quiesce(), { code: 'NS_ERR_STATE' });
});

check('the shutdown port stops it', async ({ serve }) => {
  const server = await serve({ shutdownPort: 0 }, echo);
  const client = net.connect(server.shutdownPort, '127.0.0.1');
  client.on('error', () => {}).end();
  await once(server, 'close');
});

check('the handler of the shutdown port decides', async ({ serve, own }) => {
  const server = await serve({
    shutdownPort: 0,
    onShutdown(peer) {
      const data = peer.receive();
      if (data === undefined) return undefined;
      peer.send(`got ${data}`);
      return String(data) === 'stop';
    },
  }, echo);
  const talk = async (text) => {
    const client = net.connect(server.shutdownPort, '127.0.0.1');
    own({ stop: () => client.destroy() });
    client.end(text);
    return (await read(client)).toString();
  };
  assert.equal(await talk('go on'), 'got go on');
  assert.equal(server.stats().state, 'running');
  const stopped = once(server, 'close');
  assert.equal(await talk('stop'), 'got stop');
  await stopped;
});

check('statistics and the report', async ({ serve, connect }) => {
  const server = await serve({}, echo);
  const client = await connect(server);
  assert.equal(await ask(client, 'four'), 'four');
  const stats = server.stats();
  assert.equal(stats.state, 'running');
  assert.deepEqual([stats.accepted, stats.open, stats.bytesIn, stats.bytesOut], [1, 1, 4, 4]);
  assert.equal(stats.closed.peer, 0);
  assert.match(server.report(), /Total thread count: 1/);
  assert.match(server.metrics(), /^netserver_/m);
  assert.equal(server.connections.length, 1);
  await closed(server);
  assert.throws(() => server.stats(), { code: 'NS_ERR_STATE' });
});

check('several servers of one process do not know of each other', async ({ serve, connect }) => {
  const servers = await Promise.all(
    ['a', 'b', 'c'].map((name) => serve({}, (socket) => socket.end(name))));
  const answers = await Promise.all(servers.map(async (server) => read(await connect(server))));
  assert.deepEqual(answers.map(String), ['a', 'b', 'c']);
  await closed(servers[1]);
  assert.equal((await read(await connect(servers[2]))).toString(), 'c');
});

check('no object is left behind', async () => {
  assert.equal(objectCount(), 0);
  assert.ok(hasFeature('hosted'));
  assert.match(version, /^\d+\.\d+\.\d+$/);
});
