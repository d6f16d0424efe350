import { PathExt } from '@jupyterlab/coreutils';
import type { Contents, ServerConnection } from '@jupyterlab/services';
import { Signal, type ISignal } from '@lumino/signaling';
import type { ILabClient } from '../tokens';
import type { RunRow } from '../wire';

export const DRIVE = 'osl';
export const EXTENSION = '.result.ipynb';

/** What a refused change says. */
export class ReadOnlyError extends Error {
  constructor(sentence: string) {
    super(sentence);
    this.name = 'ReadOnlyError';
  }
}

/**
 * The drive "osl:": results as documents that can be read and nothing else.
 *
 * `osl:ID/NAME.result.ipynb` is the result of run ID. It is fetched anew each time it is opened.
 */
export class ResultDrive implements Contents.IDrive {
  constructor(
    private readonly _client: ILabClient,
    readonly serverSettings: ServerConnection.ISettings,
    private readonly _refusal: string
  ) {}

  readonly name = DRIVE;

  get fileChanged(): ISignal<Contents.IDrive, Contents.IChangedArgs> {
    return this._fileChanged;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    this._isDisposed = true;
    this._levels.clear();
    Signal.clearData(this);
  }

  /** The level that our server gave to a result when it was last fetched. */
  levelOf(localPath: string): string | null {
    return this._levels.get(runOf(localPath)) ?? null;
  }

  async get(localPath: string, options?: Contents.IFetchOptions): Promise<Contents.IModel> {
    const run = runOf(localPath);
    if (!localPath.endsWith(EXTENSION)) {
      return folder(localPath);
    }
    if (options?.type === 'notebook') {
      throw this._refuse(); // the notebook editor would start a kernel and trust what it shows
    }
    const model = file(localPath);
    if (options?.content === false) {
      return model;
    }
    const result = await this._client.result(run);
    this._levels.set(run, result.level);
    return { ...model, content: result.notebook, format: 'text', mimetype: 'application/json' };
  }

  listCheckpoints(): Promise<Contents.ICheckpointModel[]> {
    return Promise.resolve([]);
  }

  getDownloadUrl(): Promise<string> {
    return Promise.reject(this._refuse());
  }

  newUntitled(): Promise<Contents.IModel> {
    return Promise.reject(this._refuse());
  }

  delete(): Promise<void> {
    return Promise.reject(this._refuse());
  }

  rename(): Promise<Contents.IModel> {
    return Promise.reject(this._refuse());
  }

  save(): Promise<Contents.IModel> {
    return Promise.reject(this._refuse());
  }

  copy(): Promise<Contents.IModel> {
    return Promise.reject(this._refuse());
  }

  createCheckpoint(): Promise<Contents.ICheckpointModel> {
    return Promise.reject(this._refuse());
  }

  restoreCheckpoint(): Promise<void> {
    return Promise.reject(this._refuse());
  }

  deleteCheckpoint(): Promise<void> {
    return Promise.reject(this._refuse());
  }

  private _refuse(): ReadOnlyError {
    return new ReadOnlyError(this._refusal);
  }

  private readonly _levels = new Map<string, string>();
  private readonly _fileChanged = new Signal<Contents.IDrive, Contents.IChangedArgs>(this);
  private _isDisposed = false;
}

/** Where the result of a run is found. */
export function pathOf(run: RunRow): string {
  const name = run.action.replace(/[^A-Za-z0-9_.-]+/g, '-') || 'result';
  return `${DRIVE}:${run.id}/${name}${run.level === 'dummy' ? '-dummy' : ''}${EXTENSION}`;
}

function runOf(localPath: string): string {
  return localPath.split('/')[0] ?? '';
}

function file(path: string): Contents.IModel {
  return { ...EMPTY, name: PathExt.basename(path), path, type: 'file' };
}

function folder(path: string): Contents.IModel {
  return { ...EMPTY, name: PathExt.basename(path), path, type: 'directory', content: [], format: 'json' };
}

const EMPTY = {
  created: '1970-01-01T00:00:00Z',
  last_modified: '1970-01-01T00:00:00Z',
  writable: false,
  mimetype: '',
  content: null,
  format: null
};
