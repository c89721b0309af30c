/** Data planes with join tokens and tenants, made through the public API as fast as it takes them. */
import type { ApiClients } from "../world/world.ts";
import type { Seed } from "./fleet/protocol.ts";

/** Calls under way for each connection. */
const AT_A_TIME = 16;

/** `count` pieces of work, spread over the connections. */
export async function spreadCalls(
  apis: readonly ApiClients[],
  count: number,
  call: (api: ApiClients, i: number) => Promise<unknown>,
): Promise<void> {
  let next = 0;
  const worker = async (api: ApiClients): Promise<void> => {
    while (next < count) await call(api, next++);
  };
  await Promise.all(apis.flatMap((api) => Array.from({ length: AT_A_TIME }, () => worker(api))));
}

/** Name of the data plane with an index. */
export const dataPlaneName = (index: number): string => `dataPlanes/fleet-${index}`;
/** Name of a tenant of it. */
export const tenantName = (index: number, tenant: number): string => `tenants/fleet-${index}-${tenant}`;

/** Creates the data planes [from, to) and a join token for each. */
export async function createDataPlanes(
  apis: readonly ApiClients[],
  range: { from: number; to: number },
): Promise<Seed[]> {
  const seeds: Seed[] = [];
  await spreadCalls(apis, range.to - range.from, async (api, i) => {
    const index = range.from + i;
    await api.dataPlanes.createDataPlane({ dataPlaneId: `fleet-${index}`, dataPlane: { spec: {} } });
    const { token } = await api.joinTokens.createJoinToken({ parent: dataPlaneName(index) });
    seeds.push({ index, token });
  });
  return seeds;
}

/** Creates `each` tenants in each of the data planes [from, to). */
export async function createTenants(
  apis: readonly ApiClients[],
  range: { from: number; to: number; each: number },
): Promise<void> {
  const { from, to, each } = range;
  await spreadCalls(apis, (to - from) * each, async (api, i) => {
    const index = from + Math.floor(i / each);
    const id = tenantName(index, i % each).slice("tenants/".length);
    await api.tenants.createTenant({
      tenantId: id,
      tenant: { spec: { dataPlane: dataPlaneName(index) } },
    });
  });
}
