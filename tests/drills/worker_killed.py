"""The only gateway is killed (SIGKILL) 20 times while it stores documents in the background: each is stored once."""

from drill import deployment, expect, good, kill, wait_for

# So long that some of them make a step: it stores what is embedded in one call.
KILLS, DOCUMENTS, SENTENCES = 20, 1000, 60
# A lease that runs out soon: the drill would wait 30 s for it after each kill.
SETTINGS = (("lease_ms = 30_000", "lease_ms = 1_000"), ("poll_ms = 2_000", "poll_ms = 200"), ("retry_ms = 5_000", "retry_ms = 200"))


def main() -> None:
    with deployment(gateways=1, settings=SETTINGS) as served:
        url = served.urls[0]
        text = lambda n: " ".join(f"Ferry number {n} sails at noon from pier {pier}." for pier in range(SENTENCES))
        documents = [{"content": text(n), "external_id": f"ferry-{n}"} for n in range(DOCUMENTS)]
        task = good(url, "/api/v1/documents/async", {"documents": documents})["task_id"]
        stored = lambda: int(served.postgres.ask("SELECT count(*) FROM documents"))
        kills = 0
        for _ in range(KILLS):
            before = stored()
            wait_for("progress", lambda: stored() > before or before == DOCUMENTS, 60)
            kills += stored() < DOCUMENTS
            print(f"{stored()} stored", end="; ", flush=True)
            kill(served.gateways[0])
            served.gateways[0] = served.start(0)
        print()
        state = lambda: good(url, f"/api/v1/tasks/{task}")
        wait_for("the end of the task", lambda: state()["status"] not in ("queued", "processing"), 120)
        ended = state()
        ids = served.external_ids()
        passages = int(served.postgres.ask("SELECT count(*) FROM passages"))
        print(f"killed {KILLS} times, {kills} of them before all documents were stored; the task: {ended['status']}, {ended['progress']}")
        print(f"documents: {len(ids)} of {DOCUMENTS}, most often stored: {max(ids.values())} times; passages: {passages}")
        told = sum(document["passages"] for document in ended["result"]["documents"])
        reported = {document["status"] for document in ended["result"]["documents"]}
        print(f"reported for {len(ended['result']['documents'])} documents: {', '.join(sorted(reported))}")
        expect(kills == KILLS, "the documents were all stored before the last kill")
        expect(ended["status"] == "succeeded", "the task did not succeed")
        expect(len(ids) == DOCUMENTS and passages == told and max(ids.values()) == 1, "documents are missing or twice there")


main()
