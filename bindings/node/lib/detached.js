'use strict';

const { addon, Status, statusError, check } = require('./native');

// The operations of src/detached.c.
const RECV = 0;
const SEND = 1;
const FLUSH = 2;
const END = 3;
const FREE = 4;
const PIECE_BYTES = 32768;
const RECEIVE_BYTES = 65536;

// A connection that its server has given up. Its calls wait on threads of libuv's pool, one after
// another.
class DetachedSocket {
  constructor(socket) {
    this.socket = socket;
    this.timeout = 0; // ms that a call may wait; 0: forever
    this._last = Promise.resolve();
    this._waiting = 0;
  }

  // A Buffer of at most `size` bytes, or null at the end.
  receive(size = RECEIVE_BYTES) {
    return this._queue(async () => {
      const result = await this._operate(RECV, Math.min(size, RECEIVE_BYTES));
      if (typeof result !== 'number') return result;
      check(result);
      return null;
    });
  }

  // Resolves when the kernel has all of it.
  send(data) {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    return this._queue(async () => {
      for (let at = 0; at < bytes.byteLength; at += PIECE_BYTES) {
        const piece = new Uint8Array(
          bytes.buffer, bytes.byteOffset + at, Math.min(PIECE_BYTES, bytes.byteLength - at));
        check(await addon.operate(this._number, SEND, piece));
        check(await this._operate(FLUSH));
      }
    });
  }

  // Ends the sending side.
  end() {
    return this._queue(async () => check(await addon.operate(this._number, END)));
  }

  // Ends the connection: what was sent leaves.
  close() {
    return this._queue(async () => {
      if (this._number < 0) return;
      const freed = addon.operate(this._number, FREE);
      this.socket._dropped();
      await freed;
    });
  }

  // The descriptor of a connection without TLS and without buffered bytes, for example for
  // `new net.Socket({ fd })`.
  releaseFd() {
    if (this._waiting > 0) throw statusError(Status.STATE, 'a call is under way');
    const fd = check(addon.releaseFd(this._number));
    this.socket._dropped();
    return fd;
  }

  get _number() {
    return this.socket._number;
  }

  // Repeats an operation that has waited for its slice of time.
  async _operate(operation, argument) {
    const deadline = this.timeout === 0 ? Infinity : performance.now() + this.timeout;
    for (;;) {
      const result = await addon.operate(this._number, operation, argument);
      if (result !== Status.TIMEOUT || performance.now() >= deadline) return result;
    }
  }

  _queue(run) {
    this._waiting += 1;
    const done = this._last.then(run).finally(() => {
      this._waiting -= 1;
    });
    this._last = done.catch(() => {});
    return done;
  }
}

module.exports = { DetachedSocket };
