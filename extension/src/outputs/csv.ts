import type { ITable } from './document';

/**
 * The table as CSV (RFC 4180). A cell that a spreadsheet would take for a formula gets an apostrophe in
 * front; a plain negative number stays a number.
 */
export function toCsv(table: ITable): string {
  return [table.columns, ...table.rows].map(row => row.map(field).join(',')).join('\r\n') + '\r\n';
}

function field(text: string): string {
  const harmless = /^[=+\-@\t\r]/.test(text) && !/^-?\d+(\.\d+)?$/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(harmless) ? `"${harmless.replace(/"/g, '""')}"` : harmless;
}
