import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parse, parseAllDocuments } from "yaml";
import { z } from "zod";
import { root } from "../../src/config.ts";

/** A command as a file of examples/deployment has it. */
export interface Launch {
  readonly command: readonly string[];
  /** The variables that the file sets. */
  readonly env: Readonly<Record<string, string>>;
}

/** The text of a file of examples/deployment. */
async function readDeployment(file: string): Promise<string> {
  return await readFile(join(root, "examples/deployment", file), "utf8");
}

/** The instructions of the last stage of the Dockerfile: what the image is. */
export async function readImage() {
  const text = (await readDeployment("Dockerfile")).replaceAll(/\\\n\s*/g, "");
  const instructions = text
    .slice(text.lastIndexOf("\nFROM") + 1)
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => {
      const [, name = "", rest = ""] = /^([A-Z]+) (.*)$/.exec(line) ?? [];
      return { name, rest };
    });
  const all = (wanted: string) =>
    instructions.filter(({ name }) => name === wanted).map(({ rest }) => rest);
  // The last one counts; in the form of JSON it is run without a shell.
  const exec = (wanted: string) =>
    z.array(z.string()).parse(JSON.parse((all(wanted).at(-1) ?? "").replace(/^[^[]*/, "")));
  return {
    from: all("FROM").at(-1) ?? "",
    user: all("USER").at(-1),
    env: assignments(all("ENV").join(" ").split(" ")),
    entrypoint: exec("ENTRYPOINT"),
    command: exec("CMD"),
    health: exec("HEALTHCHECK"),
  };
}

/** The sections of the systemd unit: what each setting is set to, in order. */
export async function readUnit(): Promise<Map<string, readonly string[]>> {
  const lines = (await readDeployment("webhookpub.service")).split("\n");
  const settings = lines.flatMap((line) => {
    const [, name, value] = /^(\w+)=(.*)$/.exec(line) ?? [];
    return name === undefined ? [] : [{ name, value: value ?? "" }];
  });
  return new Map(
    [...Map.groupBy(settings, ({ name }) => name)].map(([name, own]) => [
      name,
      own.map(({ value }) => value),
    ]),
  );
}

/** Words like A=b, as variables. */
export function assignments(words: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    words.map((word) => [word.slice(0, word.indexOf("=")), word.slice(word.indexOf("=") + 1)]),
  );
}

/** The process types of the Procfile: a line of a shell's for each. */
export async function readProcfile(): Promise<Map<string, string>> {
  const text = await readDeployment("Procfile");
  return new Map(
    [...text.matchAll(/^(\w+): (.+)$/gm)].map(([, name = "", line = ""]) => [name, line]),
  );
}

const Confined = z.object({
  allowPrivilegeEscalation: z.literal(false),
  readOnlyRootFilesystem: z.literal(true),
  capabilities: z.object({ drop: z.tuple([z.literal("ALL")]) }),
});
const Container = z.object({ args: z.array(z.string()), securityContext: Confined });
const Probe = z.object({ httpGet: z.object({ path: z.string(), port: z.string() }) });

/** As much of the Deployment as is promised somewhere. */
const Deployment = z.object({
  kind: z.literal("Deployment"),
  spec: z.object({
    strategy: z.object({ type: z.string() }),
    template: z.object({
      spec: z.object({
        terminationGracePeriodSeconds: z.number(),
        securityContext: z.object({ runAsNonRoot: z.literal(true), runAsUser: z.number().min(1) }),
        initContainers: z.tuple([Container]),
        containers: z.tuple([
          Container.extend({
            ports: z.tuple([z.object({ name: z.string(), containerPort: z.number() })]),
            startupProbe: Probe,
            livenessProbe: Probe,
            readinessProbe: Probe,
          }),
        ]),
      }),
    }),
  }),
});

/** The Deployment of the Kubernetes manifest. */
export async function readKubernetes() {
  const documents = parseAllDocuments(await readDeployment("kubernetes.yaml"));
  return Deployment.parse(documents[0]?.toJS()).spec;
}

const Compose = z.object({
  services: z.object({
    migrate: z.object({ command: z.array(z.string()) }),
    worker: z.object({
      command: z.array(z.string()),
      stop_grace_period: z
        .string()
        .regex(/^\d+s$/)
        .transform((text) => parseInt(text)),
      read_only: z.literal(true),
      cap_drop: z.tuple([z.literal("ALL")]),
      depends_on: z.object({
        migrate: z.object({ condition: z.literal("service_completed_successfully") }),
      }),
    }),
  }),
});

/** The services of the compose file. */
export async function readCompose() {
  return Compose.parse(parse(await readDeployment("compose.yaml"), { merge: true })).services;
}
