/** A parameter's value as text in a form, and back. No DOM here. */
import type { ParameterInfo, ParameterValue } from '../wire';
import { valueText } from '../ui/words';

const INTEGER = String.raw`[\-+]?\d+`;
const DECIMAL = String.raw`[\-+]?(\d+\.?\d*|\.\d+)([eE][\-+]?\d+)?`;

const DATE = String.raw`\d{4}-\d{2}-\d{2}`;

const LIST_ITEMS: ReadonlyMap<string, string> = new Map([
  ['list[int]', INTEGER],
  ['list[float]', DECIMAL],
  ['list[bool]', '(true|false)'],
  ['list[date]', DATE]
]);

/** What kind of field a parameter is entered in. */
export type FieldKind = 'flag' | 'choice' | 'integer' | 'decimal' | 'date' | 'list' | 'text';

export function fieldKind(info: ParameterInfo): FieldKind {
  if (info.choices !== null) {
    return 'choice';
  }
  switch (info.type) {
    case 'bool':
      return 'flag';
    case 'int':
      return 'integer';
    case 'float':
      return 'decimal';
    case 'date':
      return 'date';
    default:
      return info.type.startsWith('list') ? 'list' : 'text';
  }
}

/** The text that stands in the field for a value. Choices are known by their place in the list. */
export function textOf(info: ParameterInfo, value: ParameterValue | null): string {
  if (value === null) {
    return info.choices !== null ? '0' : '';
  }
  if (info.choices !== null) {
    const wanted = JSON.stringify(value);
    return String(Math.max(0, info.choices.findIndex(choice => JSON.stringify(choice) === wanted)));
  }
  return valueText(value);
}

/** The value that the text stands for. The server has the last word on whether it will do. */
export function valueOf(info: ParameterInfo, text: string): ParameterValue {
  switch (fieldKind(info)) {
    case 'choice':
      return info.choices?.[Number(text)] ?? '';
    case 'flag':
      return text === 'true';
    case 'integer':
    case 'decimal':
      return text.trim() === '' ? '' : Number(text); // the server says that a number is missing
    case 'date':
    case 'text':
      return text;
    case 'list':
      return listOf(info.type, text);
  }
}

function listOf(type: string, text: string): ParameterValue {
  const items = text
    .split(',')
    .map(item => item.trim())
    .filter(item => item !== '');
  switch (type) {
    case 'list[int]':
    case 'list[float]':
      return items.map(Number);
    case 'list[bool]':
      return items.map(item => item === 'true');
    default:
      return items;
  }
}

/** The `pattern` of a list's field, so that the browser points at a slip as it is typed. */
export function listPattern(type: string): string | undefined {
  const item = LIST_ITEMS.get(type);
  return item === undefined ? undefined : String.raw`\s*(${item}(\s*,\s*${item})*)?\s*`;
}
