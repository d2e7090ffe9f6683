%% Evaluated in the broker's node at its start: a server on a socket in the file system that evaluates Erlang
%% expressions and answers with their printed value. It spares the tests rabbitmqctl, which takes a second a call.
%% A packet is four bytes of length and a text; an answer's first byte is "+", or "-" for an error.
Path = os:getenv("OUTBOX_TESTENV_CONTROL"),
Evaluate = fun(Text) ->
    try
        {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Text)),
        {ok, Expressions} = erl_parse:parse_exprs(Tokens),
        {value, Value, _} = erl_eval:exprs(Expressions, []),
        ["+", io_lib:format("~0tp", [Value])]
    catch Class:Reason ->
        ["-", io_lib:format("~0tp", [{Class, Reason}])]
    end
end,
Answer = fun Answer(Conn) ->
    case gen_tcp:recv(Conn, 0) of
        {ok, Text} ->
            ok = gen_tcp:send(Conn, unicode:characters_to_binary(Evaluate(Text))),
            Answer(Conn);
        {error, _} ->
            gen_tcp:close(Conn)
    end
end,
Serve = fun Serve(Listener) ->
    {ok, Conn} = gen_tcp:accept(Listener),
    Pid = spawn(fun() -> receive go -> Answer(Conn) end end),
    ok = gen_tcp:controlling_process(Conn, Pid),
    Pid ! go,
    Serve(Listener)
end,
spawn(fun() ->
    _ = file:delete(Path),
    Options = [binary, {packet, 4}, {active, false}, {ifaddr, {local, Path}}],
    {ok, Listener} = gen_tcp:listen(0, Options),
    Serve(Listener)
end).
