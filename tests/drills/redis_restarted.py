"""Redis is killed (SIGKILL) and started again under load: a cache that is away fails no request."""

from drill import Load, deployment, expect, kill, prepare, redis_on

KINDS = ("cached", "search", "embed")


def main() -> None:
    with deployment() as served:
        for url in served.urls:
            prepare(url)
        front = served.nginx()
        with Load(front.url, kinds=KINDS) as load:
            load.seen(60)
            kill(served.redis)
            load.seen(150)
            redis_on(served.programs, served.redis_port)
            load.seen(150)
        load.report("Redis killed and started again")
        slowest = max(load.outcomes, key=lambda outcome: outcome.seconds)
        print(f"the slowest request: {slowest.kind}, {slowest.seconds:.1f} s")
        expect(not load.failures(), "requests failed")


main()
