/** `make mutants`: plants each bug of mutations.ts in a copy of the store; every one must be caught. Arguments: names to run. */
import { systemClock } from "@moorage/shared/clock";
import { MutantTree } from "./mutant-runner.ts";
import { mutations } from "./mutations.ts";

const wanted = process.argv.slice(2);
const chosen = mutations.filter((m) => wanted.length === 0 || wanted.some((w) => m.name.includes(w)));
const tree = new MutantTree();
let missed = 0;
try {
  const suites = [...new Set(chosen.flatMap((m) => m.suites))];
  console.log(`${chosen.length} mutants; first the suites without one: ${suites.join(", ")}`);
  for (const suite of suites) {
    const sound = await tree.with(undefined, () => tree.run(suite));
    if (sound.caught) throw new Error(`Suite "${suite}" fails without a mutation: ${sound.test}`);
  }
  for (const mutation of chosen) {
    const started = systemClock.monotonicMs();
    const { caught, suite, test } = await tree.judge(mutation);
    const seconds = ((systemClock.monotonicMs() - started) / 1_000).toFixed(0);
    if (!caught) missed++;
    console.log(
      `${caught ? "caught" : "MISSED"}  ${mutation.name.padEnd(46)} ${seconds.padStart(4)} s  ${suite ?? ""}: ${test}`,
    );
  }
} finally {
  tree.remove();
}
console.log(`${chosen.length - missed} of ${chosen.length} mutants caught`);
process.exitCode = missed === 0 ? 0 : 1;
