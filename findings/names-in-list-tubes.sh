#!/usr/bin/env bash
# No spelling of a tube named 0123 in the reply to list-tubes is read right by all beanstalkd clients.
#
# The replies of beanstalkd are YAML. Since 1.13 it writes names in stats-tube in quotes, and names in list-tubes plain.
# Clients disagree on how much of YAML that is:
#
#   greenstalk 2.1.1 (PyPI)     splits lines by itself: keeps the quotes of a quoted name in a list, drops those in stats
#   pystalk 0.9.1 (PyPI)        reads YAML 1.1 by PyYAML 6.0.4: a plain 0123 is the number 83
#   fivebeans 1.5.0 (npm),      read YAML by js-yaml 3: the same number
#   beanstalkd 2.2.5 (npm)
#   node-beanstalk 1.6.7 (npm)  reads a plain 0123 as the number 123
#
# A server that writes it plain is misread by those that read YAML, and one that quotes it by the one that does not. Who
# serves both quotes only names that would be misread, so that all clients see ordinary names as they are.
#
# Runs the clients against a server of a few lines that answers list-tubes once plain and once quoted. Needs python3 with
# venv, node and npm. Fails if a client reads anything else than what stands below.
set -euo pipefail

work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
cd "$work"

cat > server.py <<'EOF'
import socketserver, sys

PLAIN, QUOTED = b"---\n- default\n- 0123\n", b'---\n- default\n- "0123"\n'


class Connection(socketserver.StreamRequestHandler):
    def handle(self):
        replies = iter((PLAIN, QUOTED))
        for line in self.rfile:
            if line.strip() == b"list-tubes":
                body = next(replies)
                self.wfile.write(b"OK %d\r\n%s\r\n" % (len(body), body))
            elif line.startswith(b"use "):
                self.wfile.write(b"USING" + line[3:])
            elif line.startswith(b"watch "):
                self.wfile.write(b"WATCHING 1\r\n")
            elif line.strip() == b"quit":
                return
            else:
                self.wfile.write(b"UNKNOWN_COMMAND\r\n")


server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
EOF

cat > clients.py <<'EOF'
import sys
import greenstalk, pystalk

port = int(sys.argv[1])
client = greenstalk.Client(("127.0.0.1", port))
print("greenstalk", repr(client.tubes()[1]), repr(client.tubes()[1]))
client = pystalk.BeanstalkClient("127.0.0.1", port)
print("pystalk", repr(client.list_tubes()[1]), repr(client.list_tubes()[1]))
EOF

cat > clients.js <<'EOF'
const port = Number(process.argv[2]);
const show = (name, plain, quoted) => console.log(name, JSON.stringify(plain[1]), JSON.stringify(quoted[1]));
(async () => {
  const fivebeans = new (require("fivebeans").client)("127.0.0.1", port);
  await new Promise((resolve) => fivebeans.on("connect", resolve).connect());
  const list = () => new Promise((resolve, reject) =>
    fivebeans.list_tubes((error, names) => (error ? reject(error) : resolve(names))));
  show("fivebeans", await list(), await list());
  const beanstalkd = new (require("beanstalkd").default)("127.0.0.1", port);
  await beanstalkd.connect();
  show("beanstalkd", await beanstalkd.listTubes(), await beanstalkd.listTubes());
  const nodeBeanstalk = new (require("node-beanstalk").Client)({ host: "127.0.0.1", port });
  await nodeBeanstalk.connect();
  show("node-beanstalk", await nodeBeanstalk.listTubes(), await nodeBeanstalk.listTubes());
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
EOF

python3 -m venv venv
venv/bin/pip --quiet install greenstalk==2.1.1 pystalk==0.9.1 PyYAML==6.0.4
npm install --silent --no-audit --no-fund fivebeans@1.5.0 beanstalkd@2.2.5 node-beanstalk@1.6.7
python3 server.py > port &
server=$!
while [ ! -s port ]; do sleep 0.1; done
{ venv/bin/python clients.py "$(cat port)"; node clients.js "$(cat port)"; } | tee seen

# Seen, for each client: what it makes of the plain name, then of the quoted one.
diff seen - <<'EOF'
greenstalk '0123' '"0123"'
pystalk 83 '0123'
fivebeans 83 "0123"
beanstalkd 83 "0123"
node-beanstalk 123 "0123"
EOF
echo "as stated"
