import type { ImageDetails, ImageHistory, ImageSummary } from "../../../api/types";
import { newId, type FakeDocker, type FakeImage } from "../docker";
import { Refused, type Router } from "../http";
import { importFiles } from "./image_files";

const users = (docker: FakeDocker, image: FakeImage) => [...docker.containers.values()].filter((container) => image.tags.includes(container.image));

/** Layers are the same where all below them are: their chains, with their sizes. */
function chains(image: FakeImage): Map<string, number> {
  let chain = "";
  return new Map(image.layers.filter(({ size }) => size > 0).map(({ command, size }) => [(chain += `${command}|${size}\n`), size]));
}

/** Bytes of all layers, each counted once. */
export const layersSize = (docker: FakeDocker): number =>
  [...new Map([...docker.images.values()].flatMap((image) => [...chains(image)])).values()].reduce((sum, size) => sum + size, 0);

/** Sixty-four hexadecimal digits that follow from a text. */
function digest(text: string): string {
  let hash = 0x811c9dc5;
  let digits = "";
  for (let round = 0; digits.length < 64; round++) {
    for (const character of `${round}${text}`) hash = Math.imul(hash ^ character.charCodeAt(0), 0x01000193) >>> 0;
    digits += hash.toString(16).padStart(8, "0");
  }
  return `sha256:${digits}`;
}

export function summary(docker: FakeDocker, image: FakeImage): ImageSummary {
  const elsewhere = new Set([...docker.images.values()].filter((other) => other !== image).flatMap((other) => [...chains(other).keys()]));
  let size = 0;
  let shared = 0;
  for (const [chain, bytes] of chains(image)) {
    size += bytes;
    if (elsewhere.has(chain)) shared += bytes;
  }
  return {
    Id: image.id,
    ParentId: "",
    RepoTags: image.tags,
    RepoDigests: image.digests,
    Created: Math.floor(image.createdAt / 1000),
    Size: size,
    SharedSize: shared,
    Labels: image.labels,
    Containers: users(docker, image).length,
  };
}

function details(image: FakeImage): ImageDetails {
  return {
    Id: image.id,
    RepoTags: image.tags,
    RepoDigests: image.digests,
    Created: new Date(image.createdAt).toISOString(),
    Size: [...chains(image).values()].reduce((sum, bytes) => sum + bytes, 0),
    Architecture: image.architecture,
    Os: "linux",
    Config: {
      Hostname: "",
      User: "",
      Tty: false,
      OpenStdin: false,
      Env: image.env,
      Cmd: image.command,
      Entrypoint: image.entrypoint.length > 0 ? image.entrypoint : null,
      Image: "",
      WorkingDir: "/app",
      Labels: image.labels,
      ExposedPorts: Object.fromEntries(image.ports.map((port) => [port, {}])),
    },
    RootFS: { Type: "layers", Layers: image.layers.filter((layer) => layer.size > 0).map(({ command, size }) => digest(`${command}|${size}`)) },
  };
}

export function imageRoutes(router: Router, docker: FakeDocker): void {
  router.on("GET", "/images/json", () => ({ json: [...docker.images.values()].map((image) => summary(docker, image)) }));
  router.on("POST", "/images/create", (request) => {
    const { query } = request;
    if (query.has("fromSrc")) return importFiles(docker, request);
    const name = `${query.get("fromImage") ?? ""}:${query.get("tag") || "latest"}`;
    return {
      stream(out) {
        const say = (step: object) => out.data(`${JSON.stringify(step)}\r\n`);
        if (docker.offline) {
          const message = "dial tcp: lookup registry.example on 10.0.2.3:53: no such host";
          say({ errorDetail: { message }, error: message });
          return out.end();
        }
        if (name.startsWith("missing")) {
          const message = `pull access denied for ${name.split(":")[0]}, repository does not exist or may require 'docker login'`;
          say({ errorDetail: { message }, error: message });
          return out.end();
        }
        const layers = ["3f4c8a1d9b2e", "a91b7c60ee12", "5d20be7a1f33"];
        say({ status: `Pulling from ${name.split(":")[0]}`, id: name.split(":")[1] });
        for (const id of layers) say({ status: "Pulling fs layer", progressDetail: {}, id });
        let done = 0;
        const total = 24_000_000;
        const timer = setInterval(() => {
          // A lost network shows itself in the middle.
          if (name.startsWith("flaky") && done > total / 2) {
            const message = "failed to copy: httpReadSeeker: failed open: read: connection reset by peer";
            say({ errorDetail: { message }, error: message });
            clearInterval(timer);
            return out.end();
          }
          done += total / 8;
          for (const id of layers) {
            if (done < total) say({ status: "Downloading", progressDetail: { current: done, total }, id });
            else say({ status: "Pull complete", progressDetail: {}, id });
          }
          if (done < total) return;
          clearInterval(timer);
          const id = `sha256:${newId()}`;
          for (const other of docker.images.values()) other.tags = other.tags.filter((tag) => tag !== name);
          docker.images.set(id, {
            id,
            tags: [name],
            digests: [`${name.split(":")[0]}@${id}`],
            createdAt: Date.now() - 86_400_000 * 9,
            size: 3 * total,
            shared: 0,
            architecture: "amd64",
            labels: {},
            env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            command: ["sh"],
            entrypoint: [],
            ports: [],
            layers: layers.map((layer) => ({ command: `/bin/sh -c #(nop) ADD file:${layer} in / `, size: total, createdAt: Date.now() })),
          });
          say({ status: `Status: Downloaded newer image for ${name}` });
          docker.emit("image", "pull", name, { name });
          out.end();
        }, 120);
        return { close: () => clearInterval(timer) };
      },
    };
  });
  router.on("POST", "/images/prune", ({ query }) => {
    const filters = JSON.parse(query.get("filters") ?? "{}") as { dangling?: string[] };
    const onlyDangling = filters.dangling?.[0] !== "false";
    const before = layersSize(docker);
    const deleted: object[] = [];
    for (const image of [...docker.images.values()]) {
      if (users(docker, image).length > 0 || (onlyDangling && image.tags.length > 0)) continue;
      docker.images.delete(image.id);
      deleted.push(...image.tags.map((tag) => ({ Untagged: tag })), { Deleted: image.id });
      docker.emit("image", "delete", image.id);
    }
    return { json: { ImagesDeleted: deleted, SpaceReclaimed: before - layersSize(docker) } };
  });
  router.on("GET", "/images/:name+/json", ({ params }) => ({ json: details(docker.image(params["name"] ?? "")) }));
  router.on("GET", "/images/:name+/history", ({ params }) => {
    const image = docker.image(params["name"] ?? "");
    const history: ImageHistory[] = image.layers
      .map((layer, index) => ({
        Id: index === image.layers.length - 1 ? image.id : "<missing>",
        Created: Math.floor(layer.createdAt / 1000),
        CreatedBy: layer.command,
        Size: layer.size,
        Comment: "buildkit.dockerfile.v0",
        Tags: index === image.layers.length - 1 ? image.tags : null,
      }))
      .reverse();
    return { json: history };
  });
  router.on("POST", "/images/:name+/tag", ({ params, query }) => {
    const image = docker.image(params["name"] ?? "");
    const tag = `${query.get("repo") ?? ""}:${query.get("tag") || "latest"}`;
    for (const other of docker.images.values()) other.tags = other.tags.filter((present) => present !== tag);
    image.tags.push(tag);
    docker.emit("image", "tag", image.id, { name: tag });
    return { status: 201 };
  });
  router.on("DELETE", "/images/:name+", ({ params, query }) => {
    const name = params["name"] ?? "";
    const image = docker.image(name);
    if (image.tags.length > 1 && image.tags.includes(name)) {
      image.tags = image.tags.filter((tag) => tag !== name);
      docker.emit("image", "untag", image.id, { name });
      return { json: [{ Untagged: name }] };
    }
    const user = users(docker, image)[0];
    if (user && !query.has("force")) {
      throw new Refused(409, `conflict: unable to remove repository reference "${name}" (must force) - container ${user.id.slice(0, 12)} is using its referenced image ${image.id.slice(7, 19)}`);
    }
    const gone: object[] = image.tags.map((tag) => ({ Untagged: tag }));
    docker.images.delete(image.id);
    docker.emit("image", "delete", image.id);
    return { json: [...gone, { Deleted: image.id }] };
  });
}
