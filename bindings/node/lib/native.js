'use strict';

// The addon, and what JavaScript keeps for it: servers, sockets, tasks and exceptions, each by the
// number that C has of it. What stands in these tables is alive as long as C may ask for it.

const path = require('node:path');

const file = path.join(__dirname, '..', 'build', 'netserver.node');

function load() {
  try {
    return require(file);
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND') throw error;
    throw new Error(`${file} is missing: run "node build.js" in ${path.dirname(__dirname)}`);
  }
}

const addon = load();

const servers = []; // by number
const sockets = []; // by number
const tasks = new Map(); // functions of watches, timers and posted tasks
const raised = new Map(); // exceptions on their way to the exception handler
let lastNumber = 0;

// A number for a task or an exception: 1 to 2^32 - 1.
function newNumber(table) {
  do lastNumber = lastNumber === 0xffffffff ? 1 : lastNumber + 1;
  while (table.has(lastNumber));
  return lastNumber;
}

function addTask(run) {
  if (typeof run !== 'function') throw statusError(Status.INVALID, 'the callback is no function');
  const number = newNumber(tasks);
  tasks.set(number, run);
  return number;
}

// How many objects are kept for C.
function objectCount() {
  const count = (table) => table.reduce((sum, entry) => sum + (entry !== undefined), 0);
  return count(servers) + count(sockets) + tasks.size + raised.size;
}

const Status = Object.freeze({
  OK: 0,
  INVALID: -1001,
  STATE: -1002,
  TIMEOUT: -1003,
  CLOSED: -1004,
  RESET: -1005,
  WOULD_BLOCK: -1006,
  BUFFER_FULL: -1007,
  REJECTED: -1008,
  DETACHED: -1009,
});

// The Error of a status, as the addon makes them.
function statusError(status, message = addon.statusMessage(status)) {
  const error = new Error(message);
  error.code = addon.statusName(status);
  error.status = status;
  return error;
}

// These return what they were given, and throw where it is of another kind.

function objectOf(value, what) {
  if (typeof value === 'object' && value !== null) return value;
  throw statusError(Status.INVALID, `${what} is no object`);
}

function arrayOf(value, what) {
  if (Array.isArray(value)) return value;
  throw statusError(Status.INVALID, `${what} is no array`);
}

// C ends a text at its first NUL, so there must be none.
function textOf(value, what) {
  if (typeof value === 'string' && value !== '' && !value.includes('\0')) return value;
  throw statusError(Status.INVALID, `${what} is no string, or is empty, or has a NUL`);
}

// Returns what is not negative, and throws the Error of what is.
function check(result) {
  if (result < 0) throw statusError(result);
  return result;
}

// The place of an exception that nothing catches: 'uncaughtException'.
function throwUncaught(error) {
  process.nextTick(() => {
    throw error;
  });
}

module.exports = {
  addon, servers, sockets, tasks, raised, newNumber, addTask, objectCount, Status, statusError,
  objectOf, arrayOf, textOf, check, throwUncaught,
};
