/** Docker's answers, as far as pages read them. Names are Docker's. */

export interface Port {
  IP?: string;
  PrivatePort: number;
  PublicPort?: number;
  Type: string;
}

export type ContainerState = "created" | "running" | "paused" | "restarting" | "removing" | "exited" | "dead";

export interface ContainerSummary {
  Id: string;
  Names: string[];
  Image: string;
  ImageID: string;
  Command: string;
  /** Seconds since the epoch. */
  Created: number;
  Ports: Port[];
  Labels: Record<string, string>;
  State: ContainerState;
  Status: string;
  /** By the network's name. */
  NetworkSettings?: { Networks: Record<string, { IPAddress: string; GlobalIPv6Address?: string; MacAddress?: string; NetworkID?: string; Aliases?: string[] | null }> };
  Mounts: MountPoint[];
}

export interface MountPoint {
  Type: "bind" | "volume" | "tmpfs" | "image";
  Name?: string;
  Source: string;
  Destination: string;
  Driver?: string;
  Mode: string;
  RW: boolean;
  Propagation: string;
}

export interface ContainerDetails {
  Id: string;
  Name: string;
  Created: string;
  Path: string;
  Args: string[];
  Image: string;
  Platform: string;
  RestartCount: number;
  LogPath: string;
  State: {
    Status: ContainerState;
    Running: boolean;
    Paused: boolean;
    OOMKilled: boolean;
    Pid: number;
    ExitCode: number;
    Error: string;
    StartedAt: string;
    FinishedAt: string;
    Health?: { Status: "starting" | "healthy" | "unhealthy" | "none"; FailingStreak: number; Log: HealthResult[] | null };
  };
  Config: {
    Hostname: string;
    User: string;
    Tty: boolean;
    OpenStdin: boolean;
    Env: string[] | null;
    Cmd: string[] | null;
    Entrypoint: string[] | null;
    Image: string;
    WorkingDir: string;
    Labels: Record<string, string> | null;
    StopSignal?: string;
  };
  HostConfig: {
    RestartPolicy: { Name: string; MaximumRetryCount: number };
    Memory: number;
    NanoCpus: number;
    NetworkMode: string;
    Privileged: boolean;
    AutoRemove: boolean;
    ReadonlyRootfs: boolean;
  };
  NetworkSettings: {
    Ports: Record<string, { HostIp: string; HostPort: string }[] | null> | null;
    Networks: Record<string, { IPAddress: string; Gateway: string; MacAddress: string; Aliases: string[] | null; DNSNames?: string[] | null }>;
  };
  Mounts: MountPoint[];
  SizeRw?: number;
  SizeRootFs?: number;
}

/** Of `POST /containers/create`, what pages set. */
export interface CreateRequest {
  Image: string;
  /** An empty one takes the image's away. */
  Entrypoint?: string[];
  Cmd?: string[];
  Env?: string[];
  Tty?: boolean;
  OpenStdin?: boolean;
  ExposedPorts?: Record<string, object>;
  HostConfig?: {
    PortBindings?: Record<string, { HostIp?: string; HostPort: string }[]>;
    Mounts?: { Type: "bind" | "volume"; Source?: string; Target: string; ReadOnly?: boolean }[];
    NetworkMode?: string;
    RestartPolicy?: { Name: "no" | "on-failure" | "unless-stopped" | "always"; MaximumRetryCount?: number };
    AutoRemove?: boolean;
  };
}

export interface HealthResult {
  Start: string;
  End: string;
  ExitCode: number;
  Output: string;
}

export interface ImageSummary {
  Id: string;
  ParentId: string;
  RepoTags: string[] | null;
  RepoDigests: string[] | null;
  Created: number;
  Size: number;
  SharedSize: number;
  Labels: Record<string, string> | null;
  Containers: number;
}

export interface ImageDetails {
  Id: string;
  RepoTags: string[] | null;
  RepoDigests: string[] | null;
  Created: string;
  Size: number;
  Architecture: string;
  Variant?: string;
  Os: string;
  Author?: string;
  Config: ContainerDetails["Config"] & { ExposedPorts?: Record<string, object> | null; Volumes?: Record<string, object> | null };
  RootFS: { Type: string; Layers: string[] };
}

export interface ImageHistory {
  Id: string;
  Created: number;
  CreatedBy: string;
  Size: number;
  Comment: string;
  Tags: string[] | null;
}

export interface Volume {
  Name: string;
  Driver: string;
  Mountpoint: string;
  CreatedAt?: string;
  Labels: Record<string, string> | null;
  Options: Record<string, string> | null;
  Scope: string;
  /** Only in `/system/df`; -1 where it is not known. */
  UsageData?: { Size: number; RefCount: number } | null;
}

export interface Network {
  Id: string;
  Name: string;
  Created: string;
  Driver: string;
  Scope: string;
  Internal: boolean;
  Attachable: boolean;
  /** Not said by engines before 1.48, which had no networks without. */
  EnableIPv4?: boolean;
  EnableIPv6: boolean;
  IPAM: { Driver: string; Config: { Subnet?: string; Gateway?: string; IPRange?: string }[] | null };
  Labels: Record<string, string> | null;
  Options: Record<string, string> | null;
  /** Only when inspected. */
  Containers?: Record<string, { Name: string; IPv4Address: string; IPv6Address: string; MacAddress: string }>;
}

export interface DiskUsage {
  LayersSize: number;
  Images: ImageSummary[] | null;
  Containers: (ContainerSummary & { SizeRw?: number; SizeRootFs?: number })[] | null;
  Volumes: Volume[] | null;
  BuildCache: { ID: string; Size: number; InUse: boolean; Shared: boolean }[] | null;
}

export interface EngineVersion {
  Version: string;
  ApiVersion: string;
  MinAPIVersion: string;
  Os: string;
  Arch: string;
  KernelVersion: string;
}

export interface DockerEvent {
  Type: "container" | "image" | "volume" | "network" | "builder" | "daemon" | string;
  Action: string;
  Actor: { ID: string; Attributes: Record<string, string> };
  /** Seconds, and nanoseconds, since the epoch. */
  time: number;
  timeNano: number;
}
