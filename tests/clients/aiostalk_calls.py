"""Every call that the PyPI package aiostalk offers, against the server at HOST:PORT.

The cases are those of greenstalk, whose interface aiostalk has; in addition clients wait side by side in one loop.
"""

import asyncio
import sys

import aiostalk
import cases


class Blocking:
    """An aiostalk client whose calls are run to their end one by one."""

    def __init__(self, loop, client):
        self.loop = loop
        self.client = client

    def __enter__(self):
        self.loop.run_until_complete(self.client.connect())
        return self

    def __exit__(self, *_):
        self.loop.run_until_complete(self.client.close())

    def kick_job(self, job):
        """aiostalk 1.3.1 makes this command but forgets to await its sending; here it is sent as it was meant."""
        command = b"kick-job %d" % (job.id if isinstance(job, aiostalk.Job) else job)
        self.loop.run_until_complete(self.client._send_cmd(command, b"KICKED"))

    def __getattr__(self, name):
        call = getattr(self.client, name)

        def run(*arguments, **options):
            return self.loop.run_until_complete(call(*arguments, **options))

        run.__name__ = name
        return run


class Server:
    def __init__(self, loop, host, port):
        self.loop = loop
        self.address = (host, port)

    def client(self, tube, **options):
        return Blocking(self.loop, aiostalk.Client(self.address, use=tube, watch=tube, **options))


async def waiting_side_by_side(address, tube):
    """Each of ten waiting workers gets one of ten jobs, and a waiting one shows in the statistics."""
    workers = [aiostalk.Client(address, watch=tube) for _ in range(10)]
    for worker in workers:
        await worker.connect()
    waiting = [asyncio.create_task(worker.reserve()) for worker in workers]
    async with aiostalk.Client(address, use=tube) as producer:
        while (await producer.stats_tube(tube))["current-waiting"] < len(workers):
            await asyncio.sleep(0.01)
        put = {await producer.put(str(n)) for n in range(len(workers))}
        jobs = await asyncio.wait_for(asyncio.gather(*waiting), timeout=10)
        assert {job.id for job in jobs} == put
        assert (await producer.stats_tube(tube))["current-jobs-reserved"] == len(workers)
    for worker, job in zip(workers, jobs):
        await worker.delete(job)
        await worker.close()


def main():
    host, _, port = sys.argv[1].rpartition(":")
    loop = asyncio.new_event_loop()
    cases.run(Server(loop, host, int(port)))
    loop.run_until_complete(waiting_side_by_side((host, int(port)), cases.tube_of("side-by-side")))
    print("ok  waiting_side_by_side")
    loop.close()


if __name__ == "__main__":
    main()
