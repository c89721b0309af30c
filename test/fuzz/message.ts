/** Messages drawn by their descriptor: every field may be set, to what fits it or to what it must survive. */
import type { DescEnum, DescField, DescMessage, MessageShape } from "@bufbuild/protobuf";
import { create, ScalarType } from "@bufbuild/protobuf";
import type { Draw } from "./draw.ts";
import { drawObject, oddKeys } from "./draw.ts";

/** What texts and bytes are taken from. */
export interface Pool {
  texts: string[];
  bytes: Uint8Array[];
}

/** Messages within messages at most. */
const DEPTH = 6;
/** Fields of a message that are set, at most. */
const FIELDS = 6;

/** A message of `schema`. */
export function drawMessage<Desc extends DescMessage>(
  draw: Draw,
  schema: Desc,
  of: { pool: Pool; depth?: number },
): MessageShape<Desc> {
  return create(schema, drawInit(draw, schema, of) as never);
}

/** The init shape of a message of `schema`. */
export function drawInit(
  draw: Draw,
  schema: DescMessage,
  of: { pool: Pool; depth?: number },
): Record<string, unknown> {
  const depth = of.depth ?? 0;
  if (schema.typeName === "google.protobuf.Struct") return drawObject(draw, 3);
  const out: Record<string, unknown> = {};
  if (depth > DEPTH || schema.fields.length === 0) return out;
  for (let n = draw.int(FIELDS + 1); n > 0; n--) {
    const field = draw.pick(schema.fields);
    const value = drawField(draw, field, { pool: of.pool, depth: depth + 1 });
    if (field.oneof === undefined) out[field.localName] = value;
    else out[field.oneof.localName] = { case: field.localName, value };
  }
  return out;
}

type Of = { pool: Pool; depth: number };

function drawField(draw: Draw, field: DescField, of: Of): unknown {
  switch (field.fieldKind) {
    case "scalar":
      return drawScalar(draw, field.scalar, of.pool);
    case "enum":
      return drawEnum(draw, field.enum);
    case "message":
      return drawInit(draw, field.message, of);
    case "list":
      return Array.from({ length: draw.int(4) }, () =>
        field.listKind === "message"
          ? drawInit(draw, field.message, of)
          : field.listKind === "enum"
            ? drawEnum(draw, field.enum)
            : drawScalar(draw, field.scalar, of.pool),
      );
    case "map": {
      const entries = Array.from({ length: draw.int(4) }, () => [
        draw.chance(3) ? draw.pick(oddKeys) : drawText(draw, of.pool),
        field.mapKind === "message"
          ? drawInit(draw, field.message, of)
          : field.mapKind === "enum"
            ? drawEnum(draw, field.enum)
            : drawScalar(draw, field.scalar, of.pool),
      ]);
      return Object.fromEntries(entries) as unknown;
    }
  }
}

function drawEnum(draw: Draw, of: DescEnum): number {
  return draw.chance(8) ? draw.pick([-1, 99, 2 ** 31 - 1]) : draw.pick(of.values).number;
}

/** A text of the pool, mostly; else one of the case's own. */
export function drawText(draw: Draw, pool: Pool): string {
  const kind = draw.int(8);
  if (kind === 0) return draw.text().replace(/[\ud800-\udfff]/g, "?");
  if (kind === 1) return `${draw.pick(pool.texts)}${draw.pick(["/", "x", "-", " ", "\u0000", "é", ".", ""])}`;
  return draw.pick(pool.texts);
}

function drawScalar(draw: Draw, type: ScalarType, pool: Pool): unknown {
  switch (type) {
    case ScalarType.STRING:
      return drawText(draw, pool);
    case ScalarType.BYTES:
      return draw.chance(3) ? draw.bytes(draw.byte()) : draw.pick(pool.bytes);
    case ScalarType.BOOL:
      return draw.int(2) === 1;
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return draw.pick([0, -0, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 1e300]);
    case ScalarType.INT64:
    case ScalarType.SINT64:
    case ScalarType.SFIXED64:
      return draw.int64();
    case ScalarType.UINT64:
    case ScalarType.FIXED64:
      return BigInt.asUintN(64, draw.int64());
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return Number(BigInt.asUintN(32, draw.int64()));
    default:
      return Number(BigInt.asIntN(32, draw.int64()));
  }
}

/** `bytes` with a few of them changed. */
export function disturb(draw: Draw, bytes: Uint8Array): Uint8Array {
  let out = Buffer.from(bytes);
  for (let n = 1 + draw.int(3); n > 0; n--) {
    const at = draw.int(out.length + 1);
    const kind = draw.int(4);
    if (kind === 0) out = Buffer.concat([out.subarray(0, at), out.subarray(at + 1 + draw.int(8))]);
    else if (kind === 1)
      out = Buffer.concat([out.subarray(0, at), draw.bytes(1 + draw.int(8)), out.subarray(at)]);
    else if (at < out.length) out[at] = draw.byte();
  }
  return out;
}
