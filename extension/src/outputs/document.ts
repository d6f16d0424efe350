/** A result document as values: what the viewer needs of a notebook, and of our own kinds of output. */
import type { JSONValue } from '@lumino/coreutils';
import * as decode from '../client/decode';
import { parameterValue, type ParameterValue } from '../wire';

export const TABLE = 'application/vnd.opensafely.table+json';
export const FIGURE = 'application/vnd.opensafely.figure+json';
export const HELD = 'application/vnd.opensafely.held+json';
export const JOB = 'application/vnd.opensafely.job+json';
export const PNG = 'image/png';

/** The mark of a hidden number; the gate writes it (`disclosure.outcome.REDACTED`). */
export const REDACTED = '[REDACTED]';

export interface ITable {
  readonly name: string;
  readonly columns: readonly string[];
  readonly labelColumns: number;
  readonly rows: readonly (readonly string[])[];
  /** The places of the rows that add up others; results made before there were any have none. */
  readonly totalRows: readonly number[];
  readonly sentence: string;
  readonly verdict: string;
  readonly treatment: string;
}

export interface IFigure {
  readonly name: string;
  readonly sentence: string;
  readonly verdict: string;
}

export interface IHeld {
  readonly sentence: string;
  readonly nextStep: string;
}

export interface IJobLink {
  readonly id: string;
  readonly action: string;
  readonly kind: string;
  readonly sentence: string;
}

export const table: decode.Decoder<ITable> = decode.openRecord(fields => ({
  name: fields.getOr('name', decode.text, ''),
  columns: fields.get('columns', decode.list(decode.text)),
  labelColumns: fields.get('label_columns', decode.integer),
  rows: fields.get('rows', decode.list(decode.list(decode.text))),
  totalRows: fields.getOr('total_rows', decode.list(decode.integer), []),
  sentence: fields.getOr('sentence', decode.text, ''),
  verdict: fields.getOr('verdict', decode.text, ''),
  treatment: fields.getOr('treatment', decode.text, '')
}));

/** How many labels of a row only say again what the row above says; never its last one (`ShownTable.repeated`). */
export function repeatedLabels({ rows, labelColumns }: ITable, index: number): number {
  const [row, above] = [rows[index] ?? [], rows[index - 1] ?? []];
  let alike = 0;
  while (alike < labelColumns - 1 && alike < row.length && row[alike] === above[alike]) {
    alike += 1;
  }
  return alike;
}

export const figure: decode.Decoder<IFigure> = decode.openRecord(fields => ({
  name: fields.getOr('name', decode.text, ''),
  sentence: fields.getOr('sentence', decode.text, ''),
  verdict: fields.getOr('verdict', decode.text, '')
}));

export const held: decode.Decoder<IHeld> = decode.openRecord(fields => ({
  sentence: fields.get('sentence', decode.text),
  nextStep: fields.getOr('next_step', decode.text, '')
}));

export const jobLink: decode.Decoder<IJobLink> = decode.openRecord(fields => ({
  id: fields.get('id', decode.text),
  action: fields.getOr('action', decode.text, ''),
  kind: fields.getOr('kind', decode.text, ''),
  sentence: fields.getOr('sentence', decode.text, '')
}));

/** A PNG as base64, or an error: nothing else goes into the address of a picture. */
export const png: decode.Decoder<string> = (value, at = PNG) => {
  const text = multiline(value, at).replace(/\s/g, '');
  if (!/^iVBORw0KGgo[A-Za-z0-9+/]*={0,2}$/.test(text)) {
    throw new decode.DecodeError(at, 'a PNG picture');
  }
  return text;
};

/** The mime bundle of one output. */
export type Bundle = ReadonlyMap<string, unknown>;

export interface ICell {
  readonly id: string;
  readonly kind: 'code' | 'markdown' | 'raw';
  readonly source: string;
  readonly executionCount: number | null;
  readonly outputs: readonly Bundle[];
}

/** What the banner says besides the level. */
export interface IBanner {
  readonly facts: readonly (readonly [name: string, value: string])[];
  readonly parameters: readonly (readonly [name: string, value: ParameterValue])[];
}

export interface IResultDocument {
  readonly banner: IBanner;
  readonly cells: readonly ICell[];
}

/** nbformat writes text as one string or as a list of lines. */
export const multiline: decode.Decoder<string> = (value, at) =>
  Array.isArray(value) ? decode.list(decode.text)(value, at).join('') : decode.text(value, at);

/** Any JSON, as a type that says so. */
export const json: decode.Decoder<JSONValue> = (value, at) => {
  if (value === null) {
    return null;
  }
  if (typeof value === 'object') {
    return Array.isArray(value) ? decode.list(json)(value, at) : decode.dictionary(json)(value, at);
  }
  return decode.anyOf<JSONValue>(decode.text, decode.number, decode.flag)(value, at);
};

const bundle: decode.Decoder<Bundle> = (value, at) =>
  new Map(Object.entries(decode.dictionary(decode.anything)(value, at)));

const output: decode.Decoder<Bundle> = decode.openRecord(fields => {
  const kind = fields.get('output_type', decode.text);
  switch (kind) {
    case 'display_data':
    case 'execute_result':
      return fields.get('data', bundle);
    case 'stream':
      return new Map([['text/plain', fields.get('text', multiline)]]);
    case 'error':
      return new Map([
        ['text/plain', `${fields.getOr('ename', decode.text, 'Error')}: ${fields.getOr('evalue', decode.text, '')}`]
      ]);
    default:
      return new Map();
  }
});

const cell: decode.Decoder<ICell> = decode.openRecord(fields => ({
  id: fields.getOr('id', decode.text, ''),
  kind: fields.get('cell_type', decode.oneOf<ICell['kind']>('code', 'markdown', 'raw')),
  source: fields.get('source', multiline),
  executionCount: fields.getOr('execution_count', decode.nullable(decode.integer), null),
  outputs: fields.getOr('outputs', decode.list(output), [])
}));

const FACTS = ['action', 'backend', 'workspace', 'commit', 'finished_day', 'policy'] as const;

/** Cells that say, for other viewers, what our banner says. */
export const BANNER_CELLS: ReadonlySet<string> = new Set(['osl-banner', 'osl-parameters']);

const banner: decode.Decoder<IBanner> = decode.openRecord(fields => {
  const facts: [string, string][] = [];
  for (const name of FACTS) {
    const value = fields.getOr(name, decode.nullable(decode.text), null);
    if (value) {
      facts.push([name, value]);
    }
  }
  return { facts, parameters: Object.entries(fields.getOr('parameters', decode.dictionary(parameterValue), {})) };
});

const NO_BANNER: IBanner = { facts: [], parameters: [] };

const metadata: decode.Decoder<IBanner> = decode.openRecord(fields => fields.getOr('opensafely', banner, NO_BANNER));

const notebook: decode.Decoder<IResultDocument> = decode.openRecord(fields => ({
  banner: fields.getOr('metadata', metadata, NO_BANNER),
  cells: fields.get('cells', decode.list(cell))
}));

/** The document in the text of an .ipynb; throws if it is none. */
export function readDocument(text: string): IResultDocument {
  const value: unknown = JSON.parse(text);
  return notebook(value, 'notebook');
}
