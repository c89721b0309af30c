import type { Target } from "./target.ts";

/** The target of a name, with its modules. */
export async function loadTarget(name: string): Promise<Target> {
  const module = (await import(`./targets/${name}.ts`)) as { default: Target };
  return module.default;
}
