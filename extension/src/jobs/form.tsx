import type { Dialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';
import { ProblemBox } from '../ui/problem';
import { valueText } from '../ui/words';
import type { NotebookInfo, ParameterInfo, ParameterValue, Problem } from '../wire';
import { fieldKind, listPattern, textOf, valueOf } from './fields';

export type Values = Readonly<Record<string, ParameterValue>>;

interface IFormOptions {
  readonly info: NotebookInfo;
  readonly values: Values;
  readonly intro: string;
  readonly problem: Problem | null;
  readonly trans: TranslationBundle;
}

/** The dialog's body: what will happen, what stood in the way last time, and the parameters. */
export class ParametersForm extends ReactWidget implements Dialog.IBodyWidget<Values> {
  constructor(private readonly _options: IFormOptions) {
    super();
    this.addClass('osl-Form');
    for (const info of _options.info.parameters) {
      this._texts.set(info.name, textOf(info, _options.values[info.name] ?? info.default));
    }
  }

  getValue(): Values {
    return Object.fromEntries(
      this._options.info.parameters.map(info => [info.name, valueOf(info, this._texts.get(info.name) ?? '')])
    );
  }

  protected render(): React.ReactElement {
    const { info, intro, problem, trans } = this._options;
    return (
      <>
        <p className="osl-Form-intro">{intro}</p>
        {problem && <ProblemBox problem={problem} trans={trans} />}
        {info.parameters.length === 0 ? (
          <p className="osl-Quiet">{trans.__('This notebook has no parameters.')}</p>
        ) : (
          <fieldset className="osl-Form-fields">
            <legend>{trans.__('Parameters')}</legend>
            {info.parameters.map(parameter => (
              <Field
                key={parameter.name}
                info={parameter}
                initial={this._texts.get(parameter.name) ?? ''}
                trans={trans}
                onChange={text => this._texts.set(parameter.name, text)}
              />
            ))}
          </fieldset>
        )}
      </>
    );
  }

  private readonly _texts = new Map<string, string>();
}

interface IFieldProps {
  readonly info: ParameterInfo;
  readonly initial: string;
  readonly trans: TranslationBundle;
  readonly onChange: (text: string) => void;
}

function Field({ info, initial, trans, onChange }: IFieldProps): React.ReactElement {
  const id = `osl-parameter-${info.name}`;
  const hint = hintOf(info, trans);
  return (
    <div className="osl-Field">
      <label htmlFor={id}>
        <code>{info.name}</code>
      </label>
      <Input id={id} info={info} initial={initial} onChange={onChange} />
      {(info.description || hint) && (
        <p className="osl-Quiet" id={`${id}-hint`}>
          {[info.description, hint].filter(Boolean).join(' · ')}
        </p>
      )}
    </div>
  );
}

interface IInputProps {
  readonly id: string;
  readonly info: ParameterInfo;
  readonly initial: string;
  readonly onChange: (text: string) => void;
}

function Input({ id, info, initial, onChange }: IInputProps): React.ReactElement {
  const [text, setText] = React.useState(initial);
  const change = (next: string): void => {
    setText(next);
    onChange(next);
  };
  const common = { id, name: info.name, 'aria-describedby': `${id}-hint`, 'data-testid': id };
  const kind = fieldKind(info);
  switch (kind) {
    case 'choice':
      return (
        <select {...common} value={text} onChange={event => change(event.target.value)}>
          {(info.choices ?? []).map((choice, index) => (
            <option key={index} value={String(index)}>
              {valueText(choice)}
            </option>
          ))}
        </select>
      );
    case 'flag':
      return (
        <input
          {...common}
          type="checkbox"
          checked={text === 'true'}
          onChange={event => change(String(event.target.checked))}
        />
      );
    case 'integer':
    case 'decimal':
    case 'date':
      return (
        <input
          {...common}
          type={kind === 'date' ? 'date' : 'number'}
          step={kind === 'decimal' ? 'any' : undefined}
          min={info.minimum ?? undefined}
          max={info.maximum ?? undefined}
          required
          value={text}
          onChange={event => change(event.target.value)}
        />
      );
    case 'list':
    case 'text':
      return (
        <input
          {...common}
          type="text"
          spellCheck={false}
          autoComplete="off"
          pattern={listPattern(info.type)}
          value={text}
          onChange={event => change(event.target.value)}
        />
      );
  }
}

function hintOf(info: ParameterInfo, trans: TranslationBundle): string {
  const parts = [];
  if (fieldKind(info) === 'list') {
    parts.push(trans.__('separated by commas'));
  }
  if (info.minimum !== null && info.maximum !== null) {
    parts.push(trans.__('from %1 to %2', String(info.minimum), String(info.maximum)));
  } else if (info.minimum !== null) {
    parts.push(trans.__('at least %1', String(info.minimum)));
  } else if (info.maximum !== null) {
    parts.push(trans.__('at most %1', String(info.maximum)));
  }
  return parts.join(', ');
}
