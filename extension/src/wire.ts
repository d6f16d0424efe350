// Generated from opensafely_lab/wire/lab.py by `python -m opensafely_lab.wire.typescript`. Never edited.
import * as decode from './client/decode';

export type ParameterValue = boolean | number | string | readonly number[] | readonly string[] | readonly boolean[];

export const parameterValue: decode.Decoder<ParameterValue> = decode.anyOf<ParameterValue>(
  decode.flag,
  decode.integer,
  decode.number,
  decode.text,
  decode.list(decode.integer),
  decode.list(decode.number),
  decode.list(decode.text),
  decode.list(decode.flag)
);

export interface CreateStudy {
  readonly template: string;
  readonly folder: string;
}

export const createStudy: decode.Decoder<CreateStudy> = decode.record(fields => ({
  template: fields.get('template', decode.text),
  folder: fields.get('folder', decode.text)
}));

/** What the open notebook is: an action of a study, or the reason why not. */
export interface NotebookInfo {
  readonly path: string;
  readonly study: string | null;
  readonly action: string | null;
  readonly parameters: readonly ParameterInfo[];
  readonly problem: Problem | null;
}

export const notebookInfo: decode.Decoder<NotebookInfo> = decode.record(fields => ({
  path: fields.get('path', decode.text),
  study: fields.get('study', decode.nullable(decode.text)),
  action: fields.get('action', decode.nullable(decode.text)),
  parameters: fields.get('parameters', decode.list(parameterInfo)),
  problem: fields.get('problem', decode.nullable(problem))
}));

export interface ParameterInfo {
  readonly name: string;
  readonly type: string;
  readonly default: ParameterValue;
  readonly minimum: number | string | null;
  readonly maximum: number | string | null;
  readonly choices: readonly ParameterValue[] | null;
  readonly description: string | null;
}

export const parameterInfo: decode.Decoder<ParameterInfo> = decode.record(fields => ({
  name: fields.get('name', decode.text),
  type: fields.get('type', decode.text),
  default: fields.get('default', parameterValue),
  minimum: fields.get('minimum', decode.anyOf<number | string | null>(decode.number, decode.text, decode.nothing)),
  maximum: fields.get('maximum', decode.anyOf<number | string | null>(decode.number, decode.text, decode.nothing)),
  choices: fields.get('choices', decode.nullable(decode.list(parameterValue))),
  description: fields.get('description', decode.nullable(decode.text))
}));

/** What went wrong: our sentence, the next step, and the one-click fix if there is one. */
export interface Problem {
  readonly code: string;
  readonly sentence: string;
  readonly next_step: string;
  readonly fix: string | null;
  readonly detail: string | null;
}

export const problem: decode.Decoder<Problem> = decode.record(fields => ({
  code: fields.get('code', decode.text),
  sentence: fields.get('sentence', decode.text),
  next_step: fields.get('next_step', decode.text),
  fix: fields.get('fix', decode.nullable(decode.text)),
  detail: fields.get('detail', decode.nullable(decode.text))
}));

/** The read-only document: JSON text of the result notebook that we built. */
export interface Result {
  readonly id: string;
  readonly name: string;
  readonly level: string;
  readonly notebook: string;
}

export const result: decode.Decoder<Result> = decode.record(fields => ({
  id: fields.get('id', decode.text),
  name: fields.get('name', decode.text),
  level: fields.get('level', decode.text),
  notebook: fields.get('notebook', decode.text)
}));

export type RunKind = 'local' | 'submitted';

export const runKind: decode.Decoder<RunKind> = decode.oneOf<RunKind>(
  'local',
  'submitted'
);

export interface RunList {
  readonly runs: readonly RunRow[];
}

export const runList: decode.Decoder<RunList> = decode.record(fields => ({
  runs: fields.get('runs', decode.list(runRow))
}));

/** One line of the panel. */
export interface RunRow {
  readonly id: string;
  readonly kind: RunKind;
  readonly action: string;
  readonly notebook: string;
  readonly backend: string | null;
  readonly commit: string | null;
  readonly parameters: Readonly<Record<string, ParameterValue>>;
  readonly stage: Stage;
  readonly progress: number;
  readonly started: string;
  readonly problem: Problem | null;
  readonly has_result: boolean;
  readonly level: string;
}

export const runRow: decode.Decoder<RunRow> = decode.record(fields => ({
  id: fields.get('id', decode.text),
  kind: fields.get('kind', runKind),
  action: fields.get('action', decode.text),
  notebook: fields.get('notebook', decode.text),
  backend: fields.get('backend', decode.nullable(decode.text)),
  commit: fields.get('commit', decode.nullable(decode.text)),
  parameters: fields.get('parameters', decode.dictionary(parameterValue)),
  stage: fields.get('stage', stage),
  progress: fields.get('progress', decode.number),
  started: fields.get('started', decode.text),
  problem: fields.get('problem', decode.nullable(problem)),
  has_result: fields.get('has_result', decode.flag),
  level: fields.get('level', decode.text)
}));

/** Where a run is, for the progress bar and the panel. */
export type Stage = 'queued' | 'dummy-run' | 'sending' | 'waiting' | 'preparing' | 'executing' | 'checking' | 'done' | 'failed' | 'refused' | 'cancelled';

export const stage: decode.Decoder<Stage> = decode.oneOf<Stage>(
  'queued',
  'dummy-run',
  'sending',
  'waiting',
  'preparing',
  'executing',
  'checking',
  'done',
  'failed',
  'refused',
  'cancelled'
);

/** Ask for a run of the notebook at `path` (a Contents path). `fixes` allows one-click repairs. */
export interface StartRun {
  readonly path: string;
  readonly kind: RunKind;
  readonly parameters: Readonly<Record<string, ParameterValue>>;
  readonly fixes: readonly string[];
}

export const startRun: decode.Decoder<StartRun> = decode.record(fields => ({
  path: fields.get('path', decode.text),
  kind: fields.get('kind', runKind),
  parameters: fields.get('parameters', decode.dictionary(parameterValue)),
  fixes: fields.get('fixes', decode.list(decode.text))
}));

export interface Started {
  readonly run: RunRow;
}

export const started: decode.Decoder<Started> = decode.record(fields => ({
  run: fields.get('run', runRow)
}));

/** For the status bar: who, where, and whether site and backend answer. */
export interface Status {
  readonly version: string;
  readonly user: string | null;
  readonly workspace: string | null;
  readonly site_reachable: boolean;
  readonly backend_reachable: boolean;
  readonly sandbox: string;
  readonly level4: boolean;
  readonly study: string | null;
}

export const status: decode.Decoder<Status> = decode.record(fields => ({
  version: fields.get('version', decode.text),
  user: fields.get('user', decode.nullable(decode.text)),
  workspace: fields.get('workspace', decode.nullable(decode.text)),
  site_reachable: fields.get('site_reachable', decode.flag),
  backend_reachable: fields.get('backend_reachable', decode.flag),
  sandbox: fields.get('sandbox', decode.text),
  level4: fields.get('level4', decode.flag),
  study: fields.get('study', decode.nullable(decode.text))
}));

export interface StudyCreated {
  readonly folder: string;
  readonly notebook: string;
}

export const studyCreated: decode.Decoder<StudyCreated> = decode.record(fields => ({
  folder: fields.get('folder', decode.text),
  notebook: fields.get('notebook', decode.text)
}));
