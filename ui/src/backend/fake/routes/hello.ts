/** Containers that say something and end: what the first run starts. */
import type { FakeContainer, FakeDocker } from "../docker";
import type { Router } from "../http";

const HELLO = [
  "",
  "Hello from Docker!",
  "This message shows that your installation appears to be working correctly.",
  "",
  "To generate this message, Docker took the following steps:",
  " 1. The Docker client contacted the Docker daemon.",
  ' 2. The Docker daemon pulled the "hello-world" image from the Docker Hub.',
  " 3. The Docker daemon created a new container from that image which runs the",
  "    executable that produces the output you are currently reading.",
  "",
];

const isHello = (container: FakeContainer) => /^hello-world\b/.test(container.image) || container.command[0] === "echo";

function speak(docker: FakeDocker, container: FakeContainer): void {
  const lines = container.command[0] === "echo" ? [container.command.slice(1).join(" ")] : HELLO;
  container.log = { length: lines.length, every: 0, line: (index) => ({ stream: "stdout", at: Date.now(), text: lines[index] ?? "" }) };
  docker.end(container, 0, "die");
}

export function helloRoutes(router: Router, docker: FakeDocker): void {
  docker.onEvent((event) => {
    if (event.Type !== "container" || event.Action !== "start") return;
    const container = docker.containers.get(event.Actor.ID);
    if (container && isHello(container)) setTimeout(() => speak(docker, container), 120);
  });
  router.on("POST", "/containers/:id/wait", ({ params }) => {
    const container = docker.container(params["id"] ?? "");
    return {
      stream(out) {
        const answer = () => {
          out.data(`${JSON.stringify({ StatusCode: container.exitCode })}\n`);
          out.end();
        };
        if (container.state !== "running") return answer();
        const end = docker.onEvent((event) => {
          if (event.Actor.ID !== container.id || event.Action !== "die") return;
          end();
          answer();
        });
        return { close: end };
      },
    };
  });
}
