'use strict';

// What C calls. Each hook catches what the program's listeners throw and returns the negative
// number that tells the library of it, or nothing.

const {
  addon, servers, sockets, tasks, raised, newNumber, Status, throwUncaught,
} = require('./native');
const { Socket } = require('./socket');

const POOL_BYTES = 8192; // as in src/addon.h
let pool; // the ArrayBuffer of the small pieces that are delivered

function describe(error) {
  try {
    return String(error?.message ?? error);
  } catch {
    return 'an exception without a text';
  }
}

function raise(server, number, error) {
  const key = newNumber(raised);
  raised.set(key, error);
  return addon.raise(server._number, number, key, describe(error));
}

function takeRaised(key) {
  const error = raised.get(key);
  raised.delete(key);
  return error;
}

// The hooks of sockets that have nothing but a name of a method to tell them apart.
function socketHook(method) {
  return (number) => {
    const socket = sockets[number];
    try {
      return socket[method]();
    } catch (error) {
      return raise(socket.server, number, error);
    }
  };
}

function onOpen(serverNumber, number, id, service) {
  const server = servers[serverNumber];
  try {
    let socket = sockets[number]; // of an outgoing or adopted connection
    if (socket === undefined) {
      socket = new Socket(server, number, id, service);
      sockets[number] = socket;
    }
    return server._opened(socket);
  } catch (error) {
    return raise(server, number, error);
  }
}

// A small piece is at an offset of the pool, another is a buffer of its own.
function onData(number, piece, length) {
  const socket = sockets[number];
  try {
    socket._received(typeof piece === 'number' ? Buffer.from(pool, piece, length) : piece);
  } catch (error) {
    return raise(socket.server, number, error);
  }
}

function onClose(number, reason, osError) {
  const socket = sockets[number];
  sockets[number] = undefined;
  try {
    socket._closed(addon.closeReasonName(reason), osError);
  } catch (error) {
    throwUncaught(error);
  }
}

function onException(serverNumber, number, key, failure) {
  const server = servers[serverNumber];
  const socket = sockets[number];
  const thrown = raised.has(key);
  const error = thrown ? takeRaised(key) : failure;
  try {
    if (!thrown) server._failed(failure, socket);
    else if (server.onException !== undefined) server.onException(error, socket);
    else throwUncaught(error);
  } catch (another) {
    throwUncaught(another);
  }
}

// Returns what the library takes: 1 stops the server, 0 ends this peer.
function onShutdown(serverNumber, number) {
  const server = servers[serverNumber];
  const peer = {
    receive() {
      const result = addon.recv(number);
      if (typeof result !== 'number') return result;
      return result === Status.WOULD_BLOCK ? undefined : null;
    },
    send: (data) => addon.send(number, typeof data === 'string' ? Buffer.from(data) : data) >= 0,
  };
  try {
    const stop = server.onShutdown(peer);
    return stop === undefined ? Status.WOULD_BLOCK : Number(Boolean(stop));
  } catch (error) {
    throwUncaught(error);
    return 0;
  }
}

function onTask(serverNumber, number, argument) {
  try {
    tasks.get(number)(argument);
  } catch (error) {
    return raise(servers[serverNumber], -1, error);
  }
}

const DROPPED_CONN = 0;
const DROPPED_TASK = 1;

// A connection that ends without 'close' of its own: it never was connected, or was detached.
function dropSocket(number) {
  const socket = sockets[number];
  sockets[number] = undefined;
  try {
    socket?._closed('abort', 0);
  } catch (error) {
    throwUncaught(error);
  }
}

function onDrop(kind, number) {
  if (kind === DROPPED_CONN) dropSocket(number);
  else if (kind === DROPPED_TASK) tasks.delete(number);
  else if (raised.has(number)) throwUncaught(takeRaised(number)); // no exception handler had it
}

function onStopped(serverNumber) {
  const server = servers[serverNumber];
  try {
    server._stopped();
  } catch (error) {
    throwUncaught(error);
  }
  servers[serverNumber] = undefined;
  if (server._number === serverNumber) server._number = -1; // it may listen again
}

function onPool() {
  const buffer = Buffer.allocUnsafeSlow(POOL_BYTES);
  pool = buffer.buffer;
  addon.usePool(buffer);
}

// In the order of `enum hook` in src/addon.h.
addon.install([
  onOpen,
  onData,
  socketHook('_ended'),
  socketHook('_drained'),
  socketHook('_timedOut'),
  socketHook('_woken'),
  onClose,
  onException,
  onShutdown,
  onTask,
  onDrop,
  onStopped,
  onPool,
  function alive() {},
]);
