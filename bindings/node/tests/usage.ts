// What a program in TypeScript writes; it is compiled, not run.

import {
  createServer, DetachedSocket, NetserverError, READ, Server, Socket, Status, Tls, WRITE,
} from '..';

const tls = new Tls({ certFile: 'cert.pem', keyFile: 'key.pem', ALPNProtocols: ['h2'] });

const server: Server = createServer(
  {
    port: 5000,
    host: 'localhost',
    tls,
    services: [{ path: '/run/echo' }],
    idleTimeout: 60_000,
    onException(error: unknown, socket?: Socket) {
      socket?.end(String(error));
    },
    onShutdown: (peer) => peer.receive() !== null,
  },
  (socket) => {
    const id: bigint = socket.id;
    const name: string | null | undefined = socket.tls?.servername;
    socket.on('data', (data) => {
      const length: number = data.length;
      if (!socket.write(data.subarray(length))) socket.pause();
      socket.write('text', 'utf8', (error?: NetserverError) => error?.code);
    });
    socket.on('close', (hadError: boolean) => console.log(id, name, hadError, socket.closeReason));
    socket.setTimeout(1000, () => socket.destroy());
    // @ts-expect-error: there is no such event
    socket.on('nonsense', () => {});
  },
);

server.on('error', (error) => console.log(error.status === Status.INVALID, error.errno));
server.on('connection', async (socket) => {
  const detached: DetachedSocket = await socket.detach();
  const data: Buffer | null = await detached.receive(100);
  if (data !== null) await detached.send(data);
  server.attach(detached).stream().pipe(process.stdout);
});
const watch = server.watch(0, READ | WRITE, (events) => console.log(events));
watch.change(READ);
server.timer(1000, 0, () => watch.cancel());
console.log(server.broadcast('hello', [1n, 2]), server.stats().closed.peer);
server.close((error) => console.log(error?.message));

// @ts-expect-error: an option that there is not
createServer({ idleTimout: 1 });
createServer((socket) => socket.end()).listen(0, '127.0.0.1', () => {});
