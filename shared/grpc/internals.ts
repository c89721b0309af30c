import type { ServerHttp2Stream } from "node:http2";
import { constants } from "node:http2";
import { TLSSocket } from "node:tls";
import type { ServerDuplexStream } from "@grpc/grpc-js";

/**
 * What grpc-js 1.14 has and does not show. Each use fails safe when an upgrade takes it away, and
 * transport tests fail then: the forced reset (streamOf), the refusal of compression (encodingOf) and the
 * client's certificate (peerCertificateOf).
 */
interface Inside {
  call?: { stream?: ServerHttp2Stream; incomingEncoding?: unknown };
}

type Call = ServerDuplexStream<unknown, unknown>;

/** The HTTP/2 stream of a call. */
function streamOf(call: Call): ServerHttp2Stream | undefined {
  return (call as unknown as Inside).call?.stream;
}

/** The encoding that the caller's messages may have; "identity" is none. */
export function encodingOf(call: Call): string {
  return String((call as unknown as Inside).call?.incomingEncoding ?? "unknown");
}

/**
 * The certificate in DER that the caller's handshake was accepted with. grpc-js's getAuthContext makes an
 * object of all its parts, ten times the work, for each call.
 */
export function peerCertificateOf(call: Call): Uint8Array | undefined {
  const session = streamOf(call)?.session;
  if (session === undefined || session.destroyed) return undefined;
  const { socket } = session;
  if (!(socket instanceof TLSSocket) || !socket.authorized) return undefined;
  const raw = socket.getPeerX509Certificate()?.raw;
  return raw === undefined ? undefined : new Uint8Array(raw);
}

/** Calls `fn` once the HTTP/2 stream of a call has closed; at once when it has, or is not known. */
export function onStreamClosed(call: Call, fn: () => void): void {
  const stream = streamOf(call);
  if (stream === undefined || stream.destroyed) fn();
  else stream.once("close", fn);
}

/**
 * Ends a call's HTTP/2 stream now, whatever waits to be sent on it. The peer sees RST_STREAM with
 * CANCEL as soon as it reads again; this end is free at once, even when the peer's socket is full.
 */
export function resetStream(call: Call): void {
  const stream = streamOf(call);
  if (stream === undefined || stream.destroyed) return;
  stream.close(constants.NGHTTP2_CANCEL);
  stream.destroy();
}

/**
 * Calls `fn` once the status of a refused call has left, if nothing was answered before it and its caller has
 * not ended the request: such a stream stays open for as long as the caller likes.
 */
export function onRefusedHalfOpen(call: Call, fn: () => void): void {
  const stream = streamOf(call);
  if (stream === undefined || stream.destroyed || stream.headersSent) return;
  stream.once("finish", () => {
    if (stream.sentHeaders?.["grpc-status"] !== undefined && stream.state.remoteClose !== 1) fn();
  });
}
