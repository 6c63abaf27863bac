'use strict';

const { EventEmitter } = require('node:events');
const { StringDecoder } = require('node:string_decoder');
const { addon, sockets, Status, statusError, check } = require('./native');
const { DetachedSocket } = require('./detached');
const { Tls } = require('./tls');

const SHUT_WR = 1;

// Whether a status means that the connection is gone, which is no fault of the caller.
const GONE = new Set([Status.CLOSED, Status.RESET, Status.TIMEOUT, Status.DETACHED]);

class Socket extends EventEmitter {
  constructor(server, number, id, service) {
    super();
    this.server = server;
    this.id = id;
    this.service = service;
    this.destroyed = false;
    this.connecting = false;
    this.readableEnded = false;
    this.writableEnded = false;
    this.closeReason = null;
    this.bytesRead = 0;
    this.bytesWritten = 0;
    this.timeout = 0;
    this.tls = null;
    this._number = number;
    this._flowing = null; // null: nobody has asked for data yet
    this._held = false; // what the addon was told last
    this._decoder = null;
    this._tasks = null; // for the next callback of this connection
    this._error = null;
    this._rejected = false;
    this._upgrading = false;
    this._detached = false;
    this._addresses = [undefined, undefined]; // of this side, of the peer
  }

  // -- reading -------------------------------------------------------------------------------

  on(event, listener) {
    super.on(event, listener);
    if (event === 'data' && this._flowing === null) this.resume();
    return this;
  }

  addListener(event, listener) {
    return this.on(event, listener);
  }

  pause() {
    this._flowing = false;
    if (!this._held) {
      this._held = true;
      addon.pause(this._number);
    }
    return this;
  }

  resume() {
    this._flowing = true;
    if (this._held) {
      this._held = false;
      addon.resume(this._number);
    }
    return this;
  }

  isPaused() {
    return this._flowing === false;
  }

  setEncoding(encoding) {
    this._decoder = new StringDecoder(encoding);
    return this;
  }

  // -- writing and ending --------------------------------------------------------------------

  // Returns false where the program should wait for 'drain'. Throws where `sendLimit` would be
  // passed, because then nothing is sent.
  write(data, encoding, callback) {
    if (typeof encoding === 'function') {
      callback = encoding;
      encoding = undefined;
    }
    if (typeof data === 'string') data = Buffer.from(data, encoding);
    const result = this.writableEnded ? Status.CLOSED : addon.send(this._number, data);
    if (result < 0) return this._notWritten(result, callback);
    this.bytesWritten += data.byteLength;
    if (callback !== undefined) process.nextTick(callback);
    return result === 0;
  }

  _notWritten(status, callback) {
    const error = statusError(status);
    if (!GONE.has(status)) throw error;
    if (callback !== undefined) process.nextTick(callback, error);
    return false;
  }

  // Sends now what this callback has written after its first write.
  flush() {
    addon.flush(this._number);
    return this;
  }

  end(data, encoding, callback) {
    if (typeof data === 'function') [data, callback] = [undefined, data];
    else if (typeof encoding === 'function') [encoding, callback] = [undefined, encoding];
    if (data !== undefined && data !== null) this.write(data, encoding);
    if (this.writableEnded) {
      if (callback !== undefined) process.nextTick(callback, statusError(Status.CLOSED));
      return this;
    }
    if (callback !== undefined) this.once('finish', callback);
    this.writableEnded = true;
    if (this.readableEnded) addon.close(this._number);
    else addon.shutdown(this._number, SHUT_WR);
    process.nextTick(() => this.emit('finish'));
    return this;
  }

  // Ends in order: what was written leaves, input is discarded.
  destroySoon() {
    this.writableEnded = true;
    this.destroyed = true;
    addon.close(this._number);
    return this;
  }

  // Ends now: in order where everything has left, else by a reset, so that the peer does not take
  // a part for all.
  destroy(error) {
    if (this.destroyed) return this;
    if (error !== undefined && error !== null) this._error = error;
    addon.flush(this._number);
    if (addon.queued(this._number) > 0) return this.resetAndDestroy();
    return this.destroySoon();
  }

  resetAndDestroy() {
    this.writableEnded = true;
    this.destroyed = true;
    addon.abort(this._number);
    return this;
  }

  // In a 'connection' listener: refuses the connection, after what was written.
  reject() {
    this._rejected = true;
    return this;
  }

  get writableLength() {
    return Math.max(addon.queued(this._number), 0);
  }

  get readyState() {
    if (this.connecting) return 'opening';
    if (this.destroyed) return 'closed';
    if (this.readableEnded) return this.writableEnded ? 'closed' : 'writeOnly';
    return this.writableEnded ? 'readOnly' : 'open';
  }

  // -- settings ------------------------------------------------------------------------------

  // Emits 'timeout' after `ms` milliseconds without a byte in either direction; 0: never.
  setTimeout(ms, callback) {
    const result = addon.setIdleTimeout(this._number, ms);
    if (result === Status.INVALID) throw statusError(result);
    this.timeout = ms;
    if (callback !== undefined) {
      if (ms === 0) this.off('timeout', callback);
      else this.once('timeout', callback);
    }
    return this;
  }

  setNoDelay(noDelay = true) {
    addon.setNoDelay(this._number, Boolean(noDelay));
    return this;
  }

  // `initialDelay` is in milliseconds; 0 leaves it as it is.
  setKeepAlive(enable = false, initialDelay = 0) {
    addon.setKeepAlive(this._number, Boolean(enable), Math.ceil(initialDelay / 1000));
    return this;
  }

  // A socket does not keep the event loop alive: its server does.
  ref() {
    return this;
  }

  unref() {
    return this;
  }

  // -- addresses -----------------------------------------------------------------------------

  _address(peer) {
    this._addresses[+peer] ??= addon.address(this._number, peer) ?? undefined;
    return this._addresses[+peer];
  }

  // {address, family, port}; of a unix socket its path; {} where it is not known.
  address() {
    return this._address(false) ?? {};
  }

  get remoteAddress() {
    return this._address(true)?.address;
  }

  get remoteFamily() {
    return this._address(true)?.family;
  }

  get remotePort() {
    return this._address(true)?.port;
  }

  get localAddress() {
    return this._address(false)?.address;
  }

  get localFamily() {
    return this._address(false)?.family;
  }

  get localPort() {
    return this._address(false)?.port;
  }

  // {pid, uid, gid} of the peer of a unix socket. In a listener of this socket.
  peerCredentials() {
    return check(addon.peerCredentials(this._number));
  }

  // -- TLS -----------------------------------------------------------------------------------

  get encrypted() {
    return this.tls !== null;
  }

  get alpnProtocol() {
    return this.tls?.alpnProtocol ?? false;
  }

  // Goes over to TLS, as its server. `ahead` is what has come behind the client's request. 'secure'
  // comes before the first data.
  async starttls(tls, ahead) {
    const context = Tls.from(tls);
    await this._inCallback(() => {
      check(addon.starttls(this._number, context._tls, ahead));
      this._upgrading = true;
    });
  }

  // -- detaching -----------------------------------------------------------------------------

  // Takes the connection out of the server.
  async detach() {
    await this._inCallback(() => {
      addon.detach(this._number);
      this._detached = true;
    });
    return new DetachedSocket(this);
  }

  // A Duplex of this socket, for pipelines.
  stream(options) {
    const { SocketStream } = require('./stream');
    return new SocketStream(this, options);
  }

  // Calls a function in a callback of this connection: in this one or in the next.
  _inCallback(run) {
    if (addon.isCurrent(this._number)) return run();
    return new Promise((resolve, reject) => {
      check(addon.wake(this._number));
      this._tasks ??= [];
      this._tasks.push({ run, resolve, reject });
    });
  }

  // Whether it is among the connections of its server.
  get _isServed() {
    return !this.connecting && !this._detached;
  }

  // -- what the library calls ----------------------------------------------------------------

  _opened(pauseOnConnect) {
    this.connecting = false;
    this.tls = addon.tlsInfo(this._number);
    if (pauseOnConnect) this.pause();
    this.server.emit('connection', this);
    if (this._rejected) return Status.REJECTED;
    if (this._flowing === null) {
      this._held = true; // until there is a listener for 'data', or resume()
      addon.pause(this._number);
    }
    return 0;
  }

  _secured() {
    this._upgrading = false;
    this.tls = addon.tlsInfo(this._number);
    this.emit('secure');
  }

  _received(chunk) {
    if (this._upgrading) this._secured();
    if (this.destroyed) return;
    this.bytesRead += chunk.length;
    if (this._decoder === null) {
      this.emit('data', chunk);
    } else {
      const text = this._decoder.write(chunk);
      if (text !== '') this.emit('data', text);
    }
  }

  _ended() {
    if (this.destroyed) return;
    this.readableEnded = true;
    const rest = this._decoder?.end();
    if (rest) this.emit('data', rest);
    this.emit('end');
    if (this.writableEnded || !this.server.allowHalfOpen) {
      this.writableEnded = true;
      addon.close(this._number);
    }
  }

  _drained() {
    this.emit('drain');
  }

  _timedOut() {
    this.emit('timeout');
  }

  _woken() {
    const tasks = this._tasks;
    this._tasks = null;
    for (const { run, resolve, reject } of tasks ?? []) {
      try {
        resolve(run());
      } catch (error) {
        reject(error);
      }
    }
    this.emit('wake');
  }

  _closed(reason, osError) {
    const error = this._error;
    this._number = -1;
    this.destroyed = true;
    this.connecting = false;
    this.writableEnded = true;
    this.closeReason = reason;
    for (const { reject } of this._tasks ?? []) reject(statusError(Status.CLOSED));
    this._tasks = null;
    if (error !== null && this.listenerCount('error') > 0) this.emit('error', error);
    this.emit('close', error !== null || osError !== 0);
  }

  // It is the owner's, or was closed by it: no 'close'.
  _dropped() {
    sockets[this._number] = undefined;
    this._number = -1;
    this.destroyed = true;
    this.writableEnded = true;
    this.closeReason = 'detached';
  }

  _attached(server, id) {
    this._detached = false;
    this.server = server;
    this.id = id;
    this._held = false;
    if (this._flowing !== true) this.pause();
  }
}

module.exports = { Socket };
