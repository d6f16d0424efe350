import type { IDisposable } from '@lumino/disposable';
import { Signal, type ISignal } from '@lumino/signaling';
import type { IJobs, ILabClient } from '../tokens';
import { hasEnded } from '../ui/words';
import type { RunRow, StartRun } from '../wire';

/**
 * The runs, heard live while the page is visible.
 *
 * A hidden page lets go of its connection (a browser has six to one server). When the connection is
 * lost we ask once, wait, and connect again.
 */
export class Jobs implements IJobs, IDisposable {
  constructor(private readonly _client: ILabClient) {
    document.addEventListener('visibilitychange', this._onVisibility);
    void this._listen();
  }

  /** How long to wait before the next attempt, in seconds. */
  pollSeconds = 5;

  get runs(): readonly RunRow[] {
    return this._runs;
  }

  get known(): boolean {
    return this._known;
  }

  get live(): boolean {
    return this._live;
  }

  get changed(): ISignal<IJobs, void> {
    return this._changed;
  }

  get ended(): ISignal<IJobs, RunRow> {
    return this._ended;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  find(id: string): RunRow | null {
    return this._runs.find(run => run.id === id) ?? null;
  }

  async start(asked: StartRun): Promise<RunRow> {
    const run = await this._client.start(asked);
    if (this.find(run.id) === null) {
      this._hear([run, ...this._runs]);
    }
    return run;
  }

  get cancelling(): ReadonlySet<string> {
    return this._cancelling;
  }

  async cancel(id: string): Promise<void> {
    this._cancelling.add(id);
    this._changed.emit();
    try {
      await this._client.cancel(id);
    } catch (error) {
      this._cancelling.delete(id);
      this._changed.emit();
      throw error;
    }
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._isDisposed = true;
    document.removeEventListener('visibilitychange', this._onVisibility);
    this._connection?.abort();
    this._wake();
    Signal.clearData(this);
  }

  private async _listen(): Promise<void> {
    while (!this._isDisposed) {
      if (document.visibilityState === 'hidden') {
        await this._wait(null);
        continue;
      }
      const connection = new AbortController();
      this._connection = connection;
      try {
        await this._client.follow(runs => this._hear(runs, true), connection.signal);
      } catch {
        // The way is broken or closed; what there is to know is asked below.
      }
      this._connection = null;
      if (this._isDisposed || connection.signal.aborted) {
        continue;
      }
      try {
        this._hear(await this._client.runs());
      } catch {
        this._setLive(false);
      }
      await this._wait(this.pollSeconds);
    }
  }

  private _hear(runs: readonly RunRow[], live = false): void {
    if (this._isDisposed) {
      return;
    }
    const before = this._runs;
    const isNew = !this._known || this._live !== live || plain(before) !== plain(runs);
    this._runs = runs;
    this._live = live;
    const wasKnown = this._known;
    this._known = true;
    for (const run of runs) {
      if (hasEnded(run)) {
        this._cancelling.delete(run.id);
      }
    }
    if (isNew) {
      this._changed.emit();
    }
    if (wasKnown) {
      for (const run of runs) {
        const earlier = before.find(other => other.id === run.id);
        if (earlier && !hasEnded(earlier) && hasEnded(run)) {
          this._ended.emit(run);
        }
      }
    }
  }

  private _setLive(live: boolean): void {
    if (this._live !== live) {
      this._live = live;
      this._changed.emit();
    }
  }

  /** Until the time is over, the page is shown or hidden, or the model disposed. */
  private _wait(seconds: number | null): Promise<void> {
    return new Promise(resolve => {
      const timer = seconds === null ? undefined : window.setTimeout(resolve, seconds * 1000);
      this._wake = () => {
        window.clearTimeout(timer);
        resolve();
      };
    });
  }

  private readonly _onVisibility = (): void => {
    if (document.visibilityState === 'hidden') {
      this._connection?.abort();
    }
    this._wake();
  };

  private _runs: readonly RunRow[] = [];
  private readonly _cancelling = new Set<string>();
  private _known = false;
  private _live = false;
  private _isDisposed = false;
  private _connection: AbortController | null = null;
  private _wake: () => void = () => undefined;
  private readonly _changed = new Signal<IJobs, void>(this);
  private readonly _ended = new Signal<IJobs, RunRow>(this);
}

/** The rows as plain JSON, to be compared. */
function plain(runs: readonly RunRow[]): string {
  return JSON.stringify(runs);
}
