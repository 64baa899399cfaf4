/** `docker container prune`. The prunes of other things stand with them. */
import type { FakeDocker } from "../docker";
import type { Router } from "../http";

export function pruneRoutes(router: Router, docker: FakeDocker): void {
  router.on("POST", "/containers/prune", () => {
    const stopped = [...docker.containers.values()].filter(({ state }) => state === "exited" || state === "created" || state === "dead");
    for (const container of stopped) docker.remove(container, false);
    const SpaceReclaimed = stopped.reduce((sum, { written }) => sum + written, 0);
    docker.emit("container", "prune", "", { reclaimed: String(SpaceReclaimed) });
    return { json: { ContainersDeleted: stopped.length > 0 ? stopped.map(({ id }) => id) : null, SpaceReclaimed } };
  });
}
