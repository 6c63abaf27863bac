'use strict';

const { EventEmitter } = require('node:events');
const { isIPv6 } = require('node:net');
const {
  addon, servers, sockets, addTask, Status, statusError, objectOf, arrayOf, textOf, check,
} = require('./native');
const { DetachedSocket } = require('./detached');
const { Socket } = require('./socket');
const { Tls } = require('./tls');

const SETTINGS = new Set(addon.settingNames());
const OWN_OPTIONS = new Set([
  'port', 'host', 'path', 'service', 'fd', 'services', 'tls', 'shutdownPort', 'onShutdown',
  'onException', 'allowHalfOpen', 'pauseOnConnect', 'writableHighWaterMark',
]);
const WHERE = ['port', 'host', 'path', 'service', 'fd'];
const WRITABLE_HIGH_WATER_MARK = 65536;

function textOfNumber(value) {
  return typeof value === 'number' ? String(value) : value;
}

// The service of the library that options of node:net mean.
function serviceOf({ port = 0, host, path, service, fd }) {
  if (service !== undefined) return textOf(textOfNumber(service), 'service');
  if (fd !== undefined) return textOf(`fd:${fd}`, 'fd');
  if (path !== undefined) return textOf(`unix:${String(path).replace(/^\0/, '@')}`, 'path');
  const number = textOf(textOfNumber(port), 'port');
  if (host === undefined) return number;
  return textOf(`${isIPv6(host) ? `[${host}]` : host}:${number}`, 'host');
}

function checkOptions(options) {
  for (const name of Object.keys(objectOf(options, 'options'))) {
    if (!SETTINGS.has(name) && !OWN_OPTIONS.has(name)) {
      throw statusError(Status.INVALID, `unknown option "${name}"`);
    }
  }
  for (const name of ['onException', 'onShutdown']) {
    if (options[name] !== undefined && typeof options[name] !== 'function') {
      throw statusError(Status.INVALID, `${name} is no function`);
    }
  }
  if (options.services !== undefined) arrayOf(options.services, 'services');
  const { writableHighWaterMark: mark = WRITABLE_HIGH_WATER_MARK } = options;
  if (!Number.isSafeInteger(mark) || mark < 1) {
    throw statusError(Status.INVALID, 'writableHighWaterMark is out of its bounds');
  }
}

// The arguments of listen(): options, or a port and perhaps a host, or a path.
function whereOf(first, second) {
  if (typeof first === 'object' && first !== null) return first;
  if (typeof first === 'string' && !/^\d+$/.test(first)) return { path: first };
  return { port: first ?? 0, host: typeof second === 'string' ? second : undefined };
}

// "127.0.0.1:80", "[::1]:80", "unix:/path" as node:net shows them.
function parseAddress(text) {
  const [first] = text.split(', ');
  if (first.startsWith('unix:')) return first.slice('unix:'.length);
  const [, v6, v4, port] = /^(?:\[(.*)\]|(.*)):(\d+)$/.exec(first) ?? [];
  if (port === undefined) return null;
  return { address: v6 ?? v4, family: v6 === undefined ? 'IPv4' : 'IPv6', port: Number(port) };
}

// A watch or a timer of a server.
class Task {
  constructor(server, id, cancel) {
    this._server = server;
    this._id = id;
    this._cancel = cancel;
  }

  // Whether it was there to cancel.
  cancel() {
    return this._cancel(this._server._number, this._id) === Status.OK;
  }
}

class Watch extends Task {
  change(events) {
    check(addon.watchChange(this._server._number, this._id, events));
  }
}

class Server extends EventEmitter {
  constructor(options = {}, connectionListener) {
    super();
    if (typeof options === 'function') [options, connectionListener] = [{}, options];
    checkOptions(options);
    this._options = options;
    this._number = -1; // in the addon
    this._closed = false; // 'close' was emitted for that number
    this._ref = true;
    this.listening = false;
    this.allowHalfOpen = options.allowHalfOpen ?? false;
    this.onException = options.onException;
    this.onShutdown = options.onShutdown;
    if (connectionListener !== undefined) this.on('connection', connectionListener);
    if (WHERE.some((name) => options[name] !== undefined)) this.listen();
  }

  // -- from the start to the end -------------------------------------------------------------

  // Listens. 'listening' or 'error' follows.
  listen(...args) {
    const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined;
    const options = { ...this._options, ...(args.length === 0 ? {} : whereOf(...args)) };
    checkOptions(options);
    if (this._runs) throw statusError(Status.STATE, 'the server listens already');
    if (callback !== undefined) this.once('listening', callback);
    try {
      this._start(options);
    } catch (error) {
      process.nextTick(() => this.emit('error', error));
      return this;
    }
    process.nextTick(() => {
      if (this.listening) this.emit('listening');
    });
    return this;
  }

  _start(options) {
    const settings = {};
    for (const name of SETTINGS) if (options[name] !== undefined) settings[name] = options[name];
    if (options.service === undefined && options.host === undefined) settings.useIpv6 ??= true;
    const number = addon.serverNew(
      settings,
      serviceOf(options),
      options.tls === undefined ? undefined : Tls.from(options.tls)._tls,
      options.shutdownPort === undefined
        ? undefined : textOf(textOfNumber(options.shutdownPort), 'shutdownPort'),
      this.onShutdown !== undefined,
      options.writableHighWaterMark ?? WRITABLE_HIGH_WATER_MARK,
    );
    servers[number] = this;
    try {
      for (const service of options.services ?? []) {
        const { tls } = objectOf(service, 'a service');
        addon.serverAddService(
          number, serviceOf(service), tls === undefined ? undefined : Tls.from(tls)._tls);
      }
      this._number = number;
      addon.serverStart(number, this);
    } catch (error) {
      servers[number] = undefined;
      this._number = -1;
      addon.serverFree(number);
      throw error;
    }
    this._closed = false;
    this.listening = true;
    if (!this._ref) addon.serverRef(number, false);
  }

  // Until 'close'.
  get _runs() {
    return this._number !== -1 && !this._closed;
  }

  // Accepts no more, and serves on what it has, until close().
  quiesce() {
    check(addon.serverRequestQuiesce(this._number));
    return this;
  }

  // Stops: no connection is accepted any more, what was written leaves, the connections end.
  // 'close' follows when all have ended; `drainTimeout` says when the rest is reset.
  close(callback) {
    if (callback !== undefined) {
      if (this._runs) this.once('close', callback);
      else process.nextTick(callback, statusError(Status.STATE, 'the server does not run'));
    }
    if (this.listening) addon.serverRequestStop(this._number);
    this.listening = false;
    return this;
  }

  // Stops now: resets the connections. 'close' follows.
  destroy() {
    this.listening = false;
    if (this._number !== -1) addon.serverStopWithin(this._number, 0);
    return this;
  }

  ref() {
    this._ref = true;
    addon.serverRef(this._number, true);
    return this;
  }

  unref() {
    this._ref = false;
    addon.serverRef(this._number, false);
    return this;
  }

  // -- what is known of it -------------------------------------------------------------------

  // {address, family, port}; the path of a unix socket; null where the server does not listen.
  // `service`: the number of the service, 0 for the first.
  address(service = 0) {
    return parseAddress(this.addressText(service));
  }

  // The same as the library writes it: "127.0.0.1:5000", "unix:/path", or "".
  addressText(service = 0) {
    return addon.serverAddress(this._number, service);
  }

  get shutdownPort() {
    return addon.serverShutdownPort(this._number);
  }

  // The open connections.
  get connections() {
    return sockets.filter((socket) => socket?.server === this && socket._isServed);
  }

  getConnections(callback) {
    process.nextTick(callback, null, this.connections.length);
    return this;
  }

  stats() {
    return addon.serverStats(this._number);
  }

  report() {
    return addon.serverReport(this._number);
  }

  // The counters in the format of Prometheus.
  metrics() {
    return addon.serverMetrics(this._number);
  }

  reloadTls(tls, service = 0) {
    addon.serverReloadTls(this._number, service, Tls.from(tls)._tls);
  }

  // -- by id ---------------------------------------------------------------------------------

  send(id, data) {
    check(addon.sendById(this._number, BigInt(id), bytesOf(data)));
  }

  // Returns how many connections have accepted the data: all open ones, or those of `ids`.
  broadcast(data, ids = addon.ids(this._number)) {
    return check(addon.broadcast(this._number, idsOf(ids), bytesOf(data)));
  }

  // As broadcast(); returns the status of each connection.
  broadcastEach(data, ids) {
    const statuses = new Int32Array(ids.length);
    check(addon.broadcast(this._number, idsOf(ids), bytesOf(data), statuses));
    return statuses;
  }

  closeConnection(id) {
    check(addon.closeById(this._number, BigInt(id)));
  }

  abortConnection(id) {
    check(addon.abortById(this._number, BigInt(id)));
  }

  // Has the socket emit 'wake'.
  wake(id) {
    check(addon.wakeById(this._number, BigInt(id)));
  }

  queued(id) {
    return check(addon.queuedById(this._number, BigInt(id)));
  }

  // Ends a direction: 0 reading, 1 writing, 2 both.
  shutdown(id, how) {
    check(addon.shutdownById(this._number, BigInt(id), how));
  }

  ids() {
    return addon.ids(this._number);
  }

  // -- in its loop ---------------------------------------------------------------------------

  // Calls a function with READ, WRITE or both of them whenever a descriptor is ready.
  watch(fd, events, callback) {
    const id = addon.watch(this._number, this._addTask(callback), fd, events);
    return new Watch(this, id, addon.unwatch);
  }

  // Calls a function after `firstMs`, then every `repeatMs` (0: once).
  timer(firstMs, repeatMs, callback) {
    const id = addon.timer(this._number, this._addTask(callback), firstMs, repeatMs);
    return new Task(this, id, addon.timerCancel);
  }

  // Calls a function in the next turn of the loop.
  post(callback) {
    check(addon.post(this._number, this._addTask(callback)));
  }

  // The addon drops the task of a call that fails, but for one without a server.
  _addTask(callback) {
    if (this._number === -1) throw statusError(Status.STATE, 'the server does not run');
    return addTask(callback);
  }

  // Makes a connection of a connected stream socket of the program's, which is the server's then.
  adopt(fd) {
    return this._take(addon.adopt(this._number, fd));
  }

  // Connects to "host:port", "unix:/path" or "unix:@name".
  connect(service, timeoutMs = 0) {
    return this._take(addon.connect(this._number, textOf(service, 'service'), timeoutMs));
  }

  _take([number, id]) {
    const socket = new Socket(this, number, id, -1);
    socket.connecting = true;
    sockets[number] = socket;
    return socket;
  }

  // Takes a detached connection in. Returns its socket.
  attach(detached) {
    if (!(detached instanceof DetachedSocket)) {
      throw statusError(Status.INVALID, 'this is no detached socket');
    }
    const { socket } = detached;
    socket._attached(this, addon.attach(this._number, socket._number));
    return socket;
  }

  // -- what the library calls ----------------------------------------------------------------

  _opened(socket) {
    const outgoing = socket.connecting;
    const result = socket._opened(this._options.pauseOnConnect ?? false);
    if (outgoing) socket.emit('connect');
    return result;
  }

  // A failure of the library's: of a connection that has a socket, or of none.
  _failed(error, socket) {
    if (socket !== undefined) socket._error = error;
    else this.emit('failure', error);
  }

  _stopped() {
    this._closed = true; // a listener may still ask for stats(), and may listen() again
    this.listening = false;
    this.emit('close');
  }
}

function bytesOf(data) {
  return typeof data === 'string' ? Buffer.from(data) : data;
}

function idsOf(ids) {
  return ids instanceof BigUint64Array ? ids : BigUint64Array.from(ids, BigInt);
}

module.exports = { Server };
