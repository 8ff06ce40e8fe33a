"""Three gateways of one version are replaced by another one's under load, across its migration.

    python3 tests/drills/rolling_update.py NEXT PREVIOUS MODELS

MODELS is a models.toml that both know: that of PREVIOUS.
The schema is migrated first, while all gateways are still PREVIOUS; then they are replaced one after the other. Once
two of three are NEXT, one goes back to PREVIOUS, as an update that is undone does, before it goes on.
"""

import sys
import time
from pathlib import Path

from drill import Load, deployment, expect, prepare, stored_once, terminate


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    following, previous, models = (Path(argument).resolve() for argument in sys.argv[1:])
    with deployment(binary=previous, catalog=models) as served:
        for url in served.urls:
            prepare(url)

        def schema() -> int:
            return int(served.postgres.ask("SELECT max(version) FROM refinery_schema_history"))

        before, front = schema(), served.nginx()
        with Load(front.url) as load:
            load.seen(60)
            started = time.monotonic()
            served.binary = following
            served.migrate()
            print(f"schema from V{before} to V{schema()} in {time.monotonic() - started:.1f} s, all gateways of the version before")
            load.seen(60)
            for number, binary in ((0, following), (1, following), (1, previous), (1, following), (2, following)):
                terminate(served.gateways[number])
                served.binary = binary
                served.gateways[number] = served.start(number)
                print(f"gateway {number + 1} is {'the next' if binary == following else 'the previous'} version", flush=True)
                load.seen(60)
        load.report("rolling update of three")
        stored_once(served, load.acknowledged)
        expect(schema() > before, "both versions have the same schema")
        expect(not load.failures(), "requests failed")


main()
