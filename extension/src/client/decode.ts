/**
 * From `unknown` to a type, or an error that says where it went wrong.
 *
 * Nothing that comes from the server or from a document is used before one of these has looked at it.
 */

/** Look at `value`, found at `at`; return it as a T or throw `DecodeError`. */
export type Decoder<T> = (value: unknown, at?: string) => T;

export class DecodeError extends Error {
  constructor(at: string, expected: string) {
    super(`${at}: expected ${expected}`);
    this.name = 'DecodeError';
  }
}

const ROOT = 'message';

export const text: Decoder<string> = (value, at = ROOT) => {
  if (typeof value !== 'string') {
    throw new DecodeError(at, 'text');
  }
  return value;
};

export const number: Decoder<number> = (value, at = ROOT) => {
  if (typeof value !== 'number' || !Number.isFinite(value)) {
    throw new DecodeError(at, 'a number');
  }
  return value;
};

export const integer: Decoder<number> = (value, at = ROOT) => {
  if (typeof value !== 'number' || !Number.isInteger(value)) {
    throw new DecodeError(at, 'a whole number');
  }
  return value;
};

export const flag: Decoder<boolean> = (value, at = ROOT) => {
  if (typeof value !== 'boolean') {
    throw new DecodeError(at, 'true or false');
  }
  return value;
};

export const nothing: Decoder<null> = (value, at = ROOT) => {
  if (value !== null) {
    throw new DecodeError(at, 'null');
  }
  return value;
};

export function nullable<T>(decoder: Decoder<T>): Decoder<T | null> {
  return (value, at = ROOT) => (value === null ? null : decoder(value, at));
}

export function oneOf<T extends string>(...choices: readonly T[]): Decoder<T> {
  return (value, at = ROOT) => {
    for (const choice of choices) {
      if (choice === value) {
        return choice;
      }
    }
    throw new DecodeError(at, `one of ${choices.join(', ')}`);
  };
}

export function anyOf<T>(...decoders: readonly Decoder<T>[]): Decoder<T> {
  return (value, at = ROOT) => {
    for (const decoder of decoders) {
      try {
        return decoder(value, at);
      } catch (error) {
        if (!(error instanceof DecodeError)) {
          throw error;
        }
      }
    }
    throw new DecodeError(at, 'another type');
  };
}

export function list<T>(decoder: Decoder<T>): Decoder<T[]> {
  return (value, at = ROOT) => {
    if (!Array.isArray(value)) {
      throw new DecodeError(at, 'a list');
    }
    return value.map((item: unknown, index) => decoder(item, `${at}[${index}]`));
  };
}

export function dictionary<T>(decoder: Decoder<T>): Decoder<Record<string, T>> {
  return (value, at = ROOT) =>
    Object.fromEntries(entries(value, at).map(([name, item]) => [name, decoder(item, `${at}.${name}`)]));
}

/** The fields of one JSON object, taken one by one. */
export class Fields {
  constructor(value: unknown, at: string) {
    this._at = at;
    this._left = new Map(entries(value, at));
  }

  get<T>(name: string, decoder: Decoder<T>): T {
    const value = this._left.get(name);
    if (value === undefined) {
      throw new DecodeError(`${this._at}.${name}`, 'a value');
    }
    this._left.delete(name);
    return decoder(value, `${this._at}.${name}`);
  }

  /** The field, or `otherwise` where there is none: for documents, never for wire messages. */
  getOr<T>(name: string, decoder: Decoder<T>, otherwise: T): T {
    return this._left.has(name) ? this.get(name, decoder) : otherwise;
  }

  /** Fields that nobody asked for. */
  get left(): string[] {
    return Array.from(this._left.keys());
  }

  private readonly _at: string;
  private readonly _left: Map<string, unknown>;
}

/** An object with exactly the fields that `build` takes. */
export function record<T>(build: (fields: Fields) => T): Decoder<T> {
  return (value, at = ROOT) => {
    const fields = new Fields(value, at);
    const built = build(fields);
    if (fields.left.length > 0) {
      throw new DecodeError(at, `no field "${fields.left[0]}"`);
    }
    return built;
  };
}

/** An object with at least the fields that `build` takes: for documents that others may extend. */
export function openRecord<T>(build: (fields: Fields) => T): Decoder<T> {
  return (value, at = ROOT) => build(new Fields(value, at));
}

function entries(value: unknown, at: string): [string, unknown][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new DecodeError(at, 'an object');
  }
  return Object.entries(value);
}

/** Kept as it is, to be decoded by whoever knows what it is. */
export const anything: Decoder<unknown> = value => value;
