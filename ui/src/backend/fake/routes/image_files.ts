/** Images to archives and back. An archive here is a tar with a `manifest.json` that names its images. */
import { TarReader, writeTar } from "../../../api/tar";
import { newId, type FakeDocker } from "../docker";
import { Refused, type FakeRequest, type Reply, type Router } from "../http";

interface Manifest {
  RepoTags: string[];
  Size: number;
}

export function imageFileRoutes(router: Router, docker: FakeDocker): void {
  router.on("GET", "/images/get", ({ query }) => {
    const images = query.getAll("names").map((name) => docker.image(name));
    const manifest: Manifest[] = images.map(({ tags, size }) => ({ RepoTags: tags, Size: size }));
    return { bytes: writeTar([{ name: "manifest.json", bytes: new TextEncoder().encode(JSON.stringify(manifest)) }]) };
  });
  router.on("POST", "/images/load", ({ body }) => {
    const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
    let manifest: Manifest[] | null = null;
    new TarReader(
      (entry, content) => {
        if (entry.name === "manifest.json" && content) manifest = JSON.parse(new TextDecoder().decode(content)) as Manifest[];
      },
      () => true,
    ).push(bytes);
    // Docker tells of this in the stream, with 200.
    const say = (line: object) => ({ bytes: new TextEncoder().encode(`${JSON.stringify(line)}\r\n`) });
    if (manifest === null) {
      const message = "open manifest.json: no such file or directory";
      return say({ errorDetail: { message }, error: message });
    }
    const [first] = manifest as Manifest[];
    if (!first) throw new Refused(500, "invalid archive: does not contain a manifest");
    const id = `sha256:${newId()}`;
    const now = Date.now();
    docker.images.set(id, {
      id,
      tags: first.RepoTags,
      digests: [],
      createdAt: now - 86_400_000,
      size: first.Size,
      shared: 0,
      architecture: "amd64",
      labels: {},
      env: [],
      command: ["sh"],
      entrypoint: [],
      ports: [],
      layers: [{ command: "/bin/sh -c #(nop) ADD file:5d20be7a1f33 in / ", size: first.Size, createdAt: now }],
    });
    docker.emit("image", "load", id, { name: id });
    return say({ stream: `Loaded image: ${first.RepoTags[0] ?? id}\n` });
  });
}

/** `POST /images/create?fromSrc=-`: an image of one layer out of a tar of files. */
export function importFiles(docker: FakeDocker, { query, body }: FakeRequest): Reply {
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
  let files = 0;
  new TarReader(() => files++).push(bytes);
  const say = (line: object) => ({ bytes: new TextEncoder().encode(`${JSON.stringify(line)}\r\n`) });
  if (files === 0) {
    const message = "Error processing tar file(exit status 1): unexpected EOF";
    return say({ errorDetail: { message }, error: message });
  }
  const id = `sha256:${newId()}`;
  const tag = query.get("repo") ? `${query.get("repo")}:${query.get("tag") || "latest"}` : null;
  docker.images.set(id, { id, tags: tag ? [tag] : [], digests: [], createdAt: Date.now(), size: bytes.length, shared: 0, architecture: "amd64", labels: {}, env: [], command: [], entrypoint: [], ports: [], layers: [{ command: "", size: bytes.length, createdAt: Date.now() }] });
  docker.emit("image", "import", id, { name: tag ?? id });
  return say({ status: id });
}
