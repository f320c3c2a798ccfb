// The same as program.py, under Node: `node program.js tcp:PORT udp:PORT …`.
const net = require('node:net');
const dgram = require('node:dgram');

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function connect(port) {
  let saw = 'nothing';
  const socket = net.connect(port, '127.0.0.1');
  socket.on('connect', () => socket.write('hello'));
  socket.on('data', (data) => { saw = `read: ${data}`; });
  socket.on('error', (error) => { saw = `${error.syscall}: ${error.code}`; });
  await sleep(200);
  return [() => saw, () => socket.destroy()];
}

async function send(port) {
  let saw = 'nothing';
  const socket = dgram.createSocket('udp4');
  socket.on('message', (data) => { saw = `read: ${data}`; });
  socket.on('error', (error) => { saw = `${error.syscall}: ${error.code}`; });
  socket.send('hello', port, '127.0.0.1', (error) => { if (error) saw = `${error.syscall}: ${error.code}`; });
  await sleep(200);
  return [() => saw, () => socket.close()];
}

async function main() {
  for (const target of process.argv.slice(2)) {
    const [protocol, port] = target.split(':');
    const act = protocol === 'tcp' ? connect : send;
    const [, drop] = await act(Number(port));
    drop();
    const before = process.cpuUsage();
    const [saw, close] = await act(Number(port));
    await sleep(2000);
    const spent = process.cpuUsage(before);
    console.log(JSON.stringify({ target: protocol, saw: saw(), cpu: (spent.user + spent.system) / 1e6 }));
    close();
  }
}

main();
