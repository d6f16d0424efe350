/** Whether the page is closed to the outside by its own Content-Security-Policy. */

const CLOSED = new Set(["'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", 'data:', 'blob:']);
const MATTER = ['default-src', 'script-src', 'img-src', 'connect-src', 'style-src', 'font-src', 'frame-src', 'object-src'];
const NEEDED = ['default-src', 'form-action', 'base-uri']; // the last two do not fall back on default-src

/** True if no directive of the policy lets the page load from, or send to, another host than `host`. */
export function isClosed(policy: string, host: string): boolean {
  const directives = new Map<string, string[]>();
  for (const part of policy.split(';')) {
    const [name, ...sources] = part.trim().split(/\s+/);
    if (name && !directives.has(name)) {
      directives.set(name, sources);
    }
  }
  const own = new Set([`ws://${host}`, `wss://${host}`]);
  const port = host.split(':')[1];
  for (const loopback of ['127.0.0.1', 'localhost']) {
    own.add(`ws://${loopback}:${port}`).add(`wss://${loopback}:${port}`);
  }
  return (
    NEEDED.every(name => directives.has(name)) &&
    [...MATTER, ...NEEDED].every(name =>
      (directives.get(name) ?? []).every(source => CLOSED.has(source) || own.has(source))
    )
  );
}
