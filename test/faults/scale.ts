/** How much a run of the fault tests does: a tenth in CI, all of it with `LONG=1`. The one reader of the environment here. */

/** The full count of rounds. */
export const long = process.env["LONG"] === "1";

/** `ROUNDS` when given, else the count of CI or the full one. */
export function rounds(ci: number, full: number): number {
  const given = Number(process.env["ROUNDS"] ?? 0);
  if (Number.isSafeInteger(given) && given > 0) return given;
  return long ? full : ci;
}

/** Replays a run: `SEED=n`. Printed by every test that draws from it. */
export const seed = Number(process.env["SEED"] ?? 20_261_126);

/** Only the failpoints whose name holds this text: `POINTS=store/`. */
export const pointsWanted = process.env["POINTS"] ?? "";
