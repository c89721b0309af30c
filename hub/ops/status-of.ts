import type { Kind } from "../core/keys.ts";

/** The conditions of a kind that are counted: those an operator's dashboard begins with. */
export function statusOf(kind: Kind): readonly string[] {
  switch (kind) {
    case "DataPlane":
      return ["Ready", "Connected"];
    case "Tenant":
      return ["Ready", "IsolationEnforced"];
    case "Application":
      return ["Ready", "Healthy"];
  }
}
