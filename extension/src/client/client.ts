import { PageConfig, URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { ProblemError, type ILabClient } from '../tokens';
import * as wire from '../wire';
import type { Decoder } from './decode';
import { events } from './events';

/** `ILabClient` over HTTP, with the signed-in user's own session. */
export class LabClient implements ILabClient {
  constructor(private readonly _settings: ServerConnection.ISettings) {}

  status(): Promise<wire.Status> {
    return this._ask('status', wire.status);
  }

  notebook(path: string): Promise<wire.NotebookInfo> {
    return this._ask(`notebook?path=${encodeURIComponent(path)}`, wire.notebookInfo);
  }

  async runs(): Promise<readonly wire.RunRow[]> {
    return (await this._ask('runs', wire.runList)).runs;
  }

  async start(asked: wire.StartRun): Promise<wire.RunRow> {
    return (await this._ask('runs', wire.started, asked)).run;
  }

  cancel(id: string): Promise<wire.RunRow> {
    return this._ask(`runs/${encodeURIComponent(id)}/cancel`, wire.runRow, {});
  }

  result(id: string): Promise<wire.Result> {
    return this._ask(`results/${encodeURIComponent(id)}`, wire.result);
  }

  createStudy(asked: wire.CreateStudy): Promise<wire.StudyCreated> {
    return this._ask('studies', wire.studyCreated, asked);
  }

  /** By fetch, not by EventSource, which cannot send the token. */
  async follow(heard: (runs: readonly wire.RunRow[]) => void, ending: AbortSignal): Promise<void> {
    const response = await this._send('events', { signal: ending });
    if (!response.ok || response.body === null) {
      throw await refusal(response);
    }
    for await (const event of events(response.body)) {
      heard(wire.runList(parse(event)).runs);
    }
  }

  async pagePolicy(): Promise<string> {
    const page = URLExt.join(this._settings.baseUrl, PageConfig.getOption('appUrl') || 'lab');
    const response = await ServerConnection.makeRequest(page, {}, this._settings);
    await response.body?.cancel();
    return response.headers.get('Content-Security-Policy') ?? '';
  }

  private async _ask<T>(path: string, decoder: Decoder<T>, body?: object): Promise<T> {
    const init = body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) };
    const response = await this._send(path, init);
    if (!response.ok) {
      throw await refusal(response);
    }
    return decoder(parse(await response.text()));
  }

  private async _send(path: string, init: RequestInit): Promise<Response> {
    const url = URLExt.join(this._settings.baseUrl, 'opensafely', path);
    try {
      return await ServerConnection.makeRequest(url, init, this._settings);
    } catch (error) {
      if (error instanceof ServerConnection.NetworkError) {
        throw new ProblemError({
          code: 'jupyter-unreachable',
          sentence: 'The Jupyter server does not answer.',
          next_step: 'Check that it is still running, then try again.',
          fix: null,
          detail: null
        });
      }
      throw error;
    }
  }
}

async function refusal(response: Response): Promise<ProblemError> {
  try {
    return new ProblemError(wire.problem(parse(await response.text())));
  } catch {
    return new ProblemError({
      code: `http-${response.status}`,
      sentence: `The Jupyter server answered ${response.status}, and nothing that OpenSAFELY Lab understands.`,
      next_step: 'Check that the server extension is enabled: run "opensafely-lab doctor" in a terminal.',
      fix: null,
      detail: null
    });
  }
}

function parse(text: string): unknown {
  return JSON.parse(text);
}
