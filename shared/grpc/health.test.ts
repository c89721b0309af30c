import { expect, test } from "vitest";
import { systemClock } from "../clock.ts";
import { Code } from "../errors.ts";
import { connect } from "./client.ts";
import { limits } from "../limits.ts";
import { createHealth, HealthService, ServingStatus } from "./health.ts";
import { apiLimits } from "./options.ts";
import { startServer } from "./server.ts";

type Call<T> = (request: { service: string }) => T;
interface HealthClient {
  check: Call<Promise<{ status: number }>>;
  watch: Call<AsyncIterable<{ status: number }>>;
}

test("health answers a check, tells a watcher of a change and refuses an unknown service", async () => {
  const health = createHealth();
  const address = { host: "127.0.0.1", port: 0 };
  const services = [health.service];
  const server = await startServer({
    address,
    tls: "insecure",
    services,
    limits: apiLimits,
    clock: systemClock,
  });
  const link = connect({ target: server.address, tls: "insecure", limits: apiLimits, clock: systemClock });
  const client = link.client(HealthService) as unknown as HealthClient;
  expect((await client.check({ service: "" })).status).toBe(ServingStatus.SERVING);
  await expect(client.check({ service: "x" })).rejects.toMatchObject({ code: Code.NOT_FOUND });
  const most = limits.probeNameBytes;
  await expect(client.check({ service: "x".repeat(most) })).rejects.toMatchObject({ code: Code.NOT_FOUND });
  const tooLong = {
    code: Code.INVALID_ARGUMENT,
    fields: [
      {
        field: "service",
        description: `has ${most + 1} characters, the limit probeNameBytes is ${most}`,
      },
    ],
  };
  const service = "x".repeat(most + 1);
  await expect(client.check({ service })).rejects.toMatchObject(tooLong);
  await expect(client.watch({ service })[Symbol.asyncIterator]().next()).rejects.toMatchObject(tooLong);
  const seen: number[] = [];
  for await (const { status } of client.watch({ service: "" })) {
    seen.push(status);
    if (seen.length === 1) health.set("", ServingStatus.NOT_SERVING);
    else break;
  }
  expect(seen).toEqual([ServingStatus.SERVING, ServingStatus.NOT_SERVING]);
  link.close();
  await server.drain(0);
});
