/** The extension's public face: what its plugins give to each other, and to anybody else. */
import { Token } from '@lumino/coreutils';
import type { ISignal } from '@lumino/signaling';
import type { CreateStudy, NotebookInfo, Problem, Result, RunRow, StartRun, Status, StudyCreated } from './wire';

/** The one door to our Jupyter server. Every reply has been decoded; a refusal is thrown as `ProblemError`. */
export interface ILabClient {
  status(): Promise<Status>;
  notebook(path: string): Promise<NotebookInfo>;
  runs(): Promise<readonly RunRow[]>;
  /** Call `heard` with the runs now and after each change, until `ending` is aborted or the connection ends. */
  follow(heard: (runs: readonly RunRow[]) => void, ending: AbortSignal): Promise<void>;
  start(asked: StartRun): Promise<RunRow>;
  /** Ask for the job of a run to be ended; the run as it is then. */
  cancel(id: string): Promise<RunRow>;
  result(id: string): Promise<Result>;
  createStudy(asked: CreateStudy): Promise<StudyCreated>;
  /** The Content-Security-Policy that our server gives to JupyterLab's page, or "". */
  pagePolicy(): Promise<string>;
}

export const ILabClient = new Token<ILabClient>(
  'opensafely-lab:ILabClient',
  'Asks the OpenSAFELY server extension, and decodes what it answers.'
);

/** The runs that the panel shows, kept up to date. */
export interface IJobs {
  readonly runs: readonly RunRow[];
  /** Whether `runs` has been heard at least once. */
  readonly known: boolean;
  /** Whether changes arrive by themselves; otherwise we ask from time to time. */
  readonly live: boolean;
  readonly changed: ISignal<IJobs, void>;
  /** Emitted when a run that was under way has come to its end. */
  readonly ended: ISignal<IJobs, RunRow>;
  find(id: string): RunRow | null;
  start(asked: StartRun): Promise<RunRow>;
  /** Ask for a run's job to be ended. That it has ended is heard like any other news. */
  cancel(id: string): Promise<void>;
  /** The runs whose end has been asked for, and has not come yet. */
  readonly cancelling: ReadonlySet<string>;
}

export const IJobs = new Token<IJobs>('opensafely-lab:IJobs', 'The runs of the current study, live.');

/** Opens results in the read-only viewer. */
export interface IOutputs {
  open(run: RunRow): Promise<void>;
}

export const IOutputs = new Token<IOutputs>('opensafely-lab:IOutputs', 'Opens a result in the read-only viewer.');

/** What our server, or the way to it, refused. */
export class ProblemError extends Error {
  constructor(readonly problem: Problem) {
    super(`${problem.sentence} ${problem.next_step}`.trim());
    this.name = 'ProblemError';
  }
}

export namespace CommandIDs {
  export const run = 'opensafely:run';
  export const submit = 'opensafely:submit';
  export const fix = 'opensafely:fix';
  export const cancel = 'opensafely:cancel';
  export const openPanel = 'opensafely:open-panel';
  export const openRun = 'opensafely:open-run';
  export const openResult = 'opensafely:open-result';
  export const newStudy = 'opensafely:new-study';
}

export const CATEGORY = 'OpenSAFELY';
export const TRANSLATION_DOMAIN = 'opensafely_lab';
